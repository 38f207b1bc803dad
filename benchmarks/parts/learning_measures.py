"""What the arms of the learning benchmark are worth, with intervals.  S random starts, R resamples of patients, T IoUs.

A number is the mean over the starts. In each resample patients are drawn, the same for all arms, and starts, for each
arm its own: an interval holds both what other films and what other starts would have given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_mtl.metrics.classify import enough
from cxr_mtl.metrics.counts import known_mean
from cxr_mtl.metrics.detect import localization
from cxr_mtl.metrics.hierarchy import given_parents, violation_rate
from cxr_mtl.metrics.intervals import Estimate, estimate, patient_resamples, resampled_ranking
from cxr_mtl.metrics.localize import Boxes, askable, random_boxes
from cxr_mtl.ontology import Ontology

RESAMPLES = 1000
BOXED = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax")
FINDINGS, TREE, BELOW, VIOLATIONS, POINTING = (
    "AUROC", "AUROC of the tree", "AUROC given the parents", "violations", "pointing game",
)  # fmt: skip
TIOU = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7")

Numbers = dict[str, np.ndarray]  # metric: (1 + R,), the sample itself first


@dataclass(frozen=True)
class Truth:
    """What all arms are judged by: the boxes of the eight findings that NIH boxed, in the order of ``BOXED``."""

    annotated: Boxes
    frames: np.ndarray
    sizes: np.ndarray


def measure(file: Path, ontology: Ontology, truth: Truth | None = None) -> Numbers:
    """Numbers of one run, in all resamples."""
    with np.load(file) as saved:
        tables = dict(saved)
    draws = patient_resamples(tables["patients"], RESAMPLES, 0)
    named = set(ontology.labelled_by("nih")) - {ontology.normal}
    presence = tables["presence"]
    many = enough(presence, presence)  # as an evaluation: what is rarer is in no mean
    columns = [
        i for i, name in enumerate(ontology.names) if name in named and many[i] and not ontology.findings[i].group
    ]
    out: Numbers = {}
    for metric, scores in ((FINDINGS, tables["probability"]), (TREE, tables["hierarchy"])):
        out[metric] = known_mean(resampled_ranking(presence[:, columns], scores[:, columns], draws).auroc, axis=1)
    asked = given_parents(presence, ontology.parents)
    below = [i for i, above in enumerate(ontology.parents) if above and enough(asked, asked)[i]]
    asked = asked[:, below]
    out[BELOW] = known_mean(resampled_ranking(asked, tables["conditional"][:, below], draws).auroc, axis=1)
    out[VIOLATIONS] = np.full(len(draws), violation_rate(tables["hierarchy"], ontology.edges))
    if np.isnan(tables["hierarchy"]).all():
        out[VIOLATIONS] = np.full(len(draws), violation_rate(tables["probability"], ontology.edges))
    if truth is not None and len(tables["located"]):
        proposed = _boxes(tables, "proposed", list(tables["located"]))
        asked_boxes = askable(
            presence[:, [ontology.index(n) for n in BOXED]], truth.annotated, np.zeros((1, len(BOXED)), bool)
        )
        out |= _located(localization(truth.annotated, proposed, asked_boxes, draws))
    return out


def at_random(file: Path, ontology: Ontology, truth: Truth, times: int = 10) -> Numbers:
    """The same of boxes of the usual size at random places."""
    with np.load(file) as saved:
        patients, presence = saved["patients"], saved["presence"]
    draws, rng = patient_resamples(patients, RESAMPLES, 0), np.random.default_rng(0)
    asked = askable(presence[:, [ontology.index(n) for n in BOXED]], truth.annotated, np.zeros((1, len(BOXED)), bool))
    rounds = [
        _located(localization(truth.annotated, random_boxes(truth.frames, truth.sizes, rng), asked, draws))
        for _ in range(times)
    ]
    return {metric: np.mean([r[metric] for r in rounds], axis=0) for metric in rounds[0]}


def read_truth(file: Path) -> Truth:
    """From the answers of a run that has a box head, which knows the annotated boxes of all eight findings."""
    with np.load(file) as saved:
        tables = dict(saved)
    located = list(tables["located"])
    rows = [located.index(name) for name in BOXED]
    return Truth(_boxes(tables, "annotated", located), tables["frames"], tables["box_sizes"][rows])


def _boxes(tables: Mapping[str, np.ndarray], kind: str, located: list[str]) -> Boxes:
    """Boxes of the eight findings, numbered as in ``BOXED``."""
    boxes = Boxes(*(tables[f"{kind}_{name}"] for name in ("film", "finding", "xyxy", "score")))
    number = np.array([BOXED.index(name) if name in BOXED else -1 for name in located])
    kept = boxes.keep(np.flatnonzero(number[boxes.finding] >= 0))
    return Boxes(kept.film, number[kept.finding], kept.xyxy, kept.score)


def _located(found: object) -> Numbers:
    iou, pointing = found.iou, found.pointing  # type: ignore[attr-defined]
    return {t: known_mean(iou[:, :, i], axis=1) for i, t in enumerate(TIOU)} | {POINTING: known_mean(pointing, axis=1)}


def summary(starts: list[np.ndarray], seed: int) -> Estimate:
    """Mean over starts, with its interval."""
    return estimate(_mean_of_starts(starts, seed))


def difference(starts: list[np.ndarray], reference: list[np.ndarray], seed: int) -> Estimate:
    """Of two arms' means, the same patients in both."""
    return estimate(_mean_of_starts(starts, seed) - _mean_of_starts(reference, seed + 1))


def _mean_of_starts(starts: list[np.ndarray], seed: int) -> np.ndarray:
    table = np.stack(starts)  # (S, 1 + R)
    num, mean = len(starts), table.mean(0)
    drawn = np.random.default_rng([seed, num]).integers(num, size=table.shape)
    drawn[:, 0] = np.arange(num)  # the sample itself
    again = np.take_along_axis(table, drawn, axis=0).mean(0)
    # Means of S starts drawn from these S spread too little, by the square root of (S - 1) / S.
    return np.asarray(mean + (again - mean) * np.sqrt(num / max(num - 1, 1)))
