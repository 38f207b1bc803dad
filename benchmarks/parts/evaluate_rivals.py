"""What benchmarks/evaluate.py measures: drawn predictions and boxes, and how others come to the same numbers.

N films, C findings, D findings with boxes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision

from cxr_mtl.data.manifest import COLUMNS, Manifest
from cxr_mtl.evaluate.collect import Answered
from cxr_mtl.evaluate.groups import subgroups
from cxr_mtl.evaluate.results import classification, hierarchy
from cxr_mtl.evaluate.studies import study
from cxr_mtl.metrics.detect import FALSE_PER_FILM
from cxr_mtl.metrics.intervals import Resamples
from cxr_mtl.metrics.localize import MATCH_IOU, Boxes, make_boxes
from cxr_mtl.ontology import load_ontology

Floats = NDArray[np.float64]
# Share of NIH's 112,120 films with each of its 14 labels (Wang et al., 2017).
PREVALENCE = (0.177, 0.119, 0.103, 0.056, 0.052, 0.047, 0.042, 0.030, 0.025, 0.022, 0.021, 0.015, 0.013, 0.002)
BOXED = 8  # findings with boxes in NIH


@dataclass(frozen=True)
class Curves:
    """Presence (N, 14), probability (N, 14) and whose films they are."""

    presence: Floats
    probability: Floats
    patient: NDArray[np.int64]


def draw_curves(rows: int, patients: int) -> Curves:
    """Labels in NIH's proportions and a model of AUROC .76; scores in single precision, so with a few ties."""
    rng = np.random.default_rng(0)
    presence = (rng.random((rows, len(PREVALENCE))) < PREVALENCE).astype(np.float64)
    score = 1 / (1 + np.exp(2.0 - rng.normal(size=presence.shape) - presence))
    return Curves(presence, score.astype(np.float32).astype(np.float64), rng.integers(patients, size=rows))


def films_of(draws: Resamples, r: int) -> NDArray[np.intp]:
    """Every film of a resample, as often as it was drawn."""
    return np.repeat(np.arange(len(draws.patient)), draws.counts[draws.patient, r])


def by_scikit_learn(curves: Curves, films: NDArray[np.intp]) -> Floats:
    """(2, C) AUROC and average precision of one resample."""
    presence, score = curves.presence[films], curves.probability[films]
    return np.array([[f(y, s) for y, s in zip(presence.T, score.T, strict=True)] for f in _SCIKIT_LEARN])


_SCIKIT_LEARN = (roc_auc_score, average_precision_score)


def by_torchmetrics(curves: Curves, films: NDArray[np.intp]) -> Floats:
    """The same."""
    target = torch.from_numpy(curves.presence[films]).long()
    score, labels = torch.from_numpy(curves.probability[films]), curves.presence.shape[1]
    both = (f(score, target, num_labels=labels, average="none") for f in _TORCHMETRICS)
    return np.array([found.double().numpy() for found in both])


_TORCHMETRICS = (multilabel_auroc, multilabel_average_precision)


@dataclass(frozen=True)
class Drawn:
    """Boxes of N films, of which every finding may be asked."""

    annotated: Boxes
    proposed: Boxes
    asked: NDArray[np.bool_]
    patient: NDArray[np.int64]


def draw_boxes(films: int, patients: int, proposals: int) -> Drawn:
    """At most one annotated box a film and finding, as in NIH, a proposal near most of them and others elsewhere."""
    rng = np.random.default_rng(1)
    annotated, proposed = [], []
    for film in range(films):
        for finding in range(BOXED):
            corner, side = rng.uniform(0, 600, 2), rng.uniform(60, 400, 2)
            boxed = rng.random() < 0.1
            if boxed:
                annotated.append((film, finding, np.concatenate([corner, corner + side]), 1.0))
            for k in range(proposals):
                near = boxed and k == 0
                place = corner + rng.normal(0, 0.2, 2) * side if near else rng.uniform(0, 600, 2)
                size = side * rng.uniform(0.7, 1.4, 2) if near else rng.uniform(60, 400, 2)
                proposed.append((film, finding, np.concatenate([place, place + size]), rng.beta(2 + near, 4)))
    asked = np.ones((films, BOXED), bool)
    return Drawn(make_boxes(annotated), make_boxes(proposed), asked, rng.integers(patients, size=films))


@dataclass(frozen=True)
class Matched:
    """What a loop keeps of each film and finding: (score, right) of its boxes, and how many are annotated."""

    judged: dict[tuple[int, int], list[tuple[float, bool]]]
    annotated: dict[tuple[int, int], int]


def match_by_loop(drawn: Drawn) -> Matched:
    """VOC's matching, film by film and finding by finding."""
    targets, boxes = defaultdict(list), defaultdict(list)
    for table, into in ((drawn.annotated, targets), (drawn.proposed, boxes)):
        for film, finding, xyxy, score in zip(table.film, table.finding, table.xyxy, table.score, strict=True):
            into[int(film), int(finding)].append((float(score), xyxy))
    judged = {}
    for key, own in boxes.items():
        found, taken = [], set()
        for score, box in sorted(own, key=lambda b: -b[0]):
            overlaps = [_iou(box, target) for _, target in targets.get(key, ())]
            nearest = int(np.argmax(overlaps)) if overlaps else -1
            right = nearest >= 0 and overlaps[nearest] >= MATCH_IOU and nearest not in taken
            taken |= {nearest} if right else set()
            found.append((score, right))
        judged[key] = found
    return Matched(judged, {key: len(own) for key, own in targets.items()})


def _iou(first: Floats, second: Floats) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return float(common / (sum(areas) - common))


def rank_by_loop(matched: Matched, films: NDArray[np.intp]) -> Floats:
    """(D, 1 + len(FALSE_PER_FILM)) average precision at IoU .4 and FROC of the films, each as often as it is named."""
    found = np.empty((BOXED, 1 + len(FALSE_PER_FILM)))
    for d in range(BOXED):
        boxes = [box for film in films.tolist() for box in matched.judged.get((film, d), ())]
        drawn = sum(matched.annotated.get((film, d), 0) for film in films.tolist())
        score, right = (np.array(column) for column in zip(*boxes, strict=True))
        order = np.argsort(-score, kind="stable")
        last = np.append(np.diff(score[order]) != 0, True)
        tp, fp = np.cumsum(right[order])[last], np.cumsum(~right[order])[last]
        best = np.maximum.accumulate((tp / (tp + fp))[::-1])[::-1]
        found[d, 0] = np.sum(np.diff(tp, prepend=0) * best) / drawn
        found[d, 1:] = [tp[fp <= rate * len(films)].max(initial=0) / drawn for rate in FALSE_PER_FILM]
    return found


def map_by_torchmetrics(drawn: Drawn) -> Floats:
    """(D,) average precision at IoU .4, COCO's matching and its 101 recalls."""
    metric = MeanAveragePrecision(iou_thresholds=[MATCH_IOU], class_metrics=True)
    metric.update(_by_film(drawn.proposed, len(drawn.asked), scored=True), _by_film(drawn.annotated, len(drawn.asked)))
    return np.asarray(metric.compute()["map_per_class"].double().numpy())


def _by_film(boxes: Boxes, films: int, *, scored: bool = False) -> list[dict[str, torch.Tensor]]:
    """Boxes lie film after film."""
    ends = np.searchsorted(boxes.film, np.arange(films + 1))
    xyxy, finding = torch.from_numpy(boxes.xyxy).float(), torch.from_numpy(boxes.finding)
    score = torch.from_numpy(boxes.score).float()
    return [
        {"boxes": xyxy[a:b], "labels": finding[a:b]} | ({"scores": score[a:b]} if scored else {})
        for a, b in pairwise(ends)
    ]


def whole_evaluation(curves: Curves, draws: Resamples) -> dict[str, Any]:
    """All numbers of results.json but those of boxes: findings, tree, studies, subgroups and their gaps."""
    ontology = load_ontology("nih14")
    named = ontology.labelled_by("nih")
    rows, rng = len(curves.presence), np.random.default_rng(2)
    columns = [ontology.index(name) for name in named if name != ontology.normal]
    presence, probability = np.zeros((rows, len(ontology.names))), rng.random((rows, len(ontology.names)))
    presence[:, columns], probability[:, columns] = curves.presence, curves.probability
    presence = ontology.propagate(presence)
    people = {
        "patient_id": curves.patient.astype(str),
        "dataset": "nih",
        "sex": np.where(rng.random(rows) < 0.56, "M", "F"),
        "age": rng.uniform(5, 90, rows),
        "view": np.where(rng.random(rows) < 0.4, "AP", "PA"),
    }
    manifest = Manifest(pd.DataFrame(people).reindex(columns=[*COLUMNS]), None, ontology, {})  # type: ignore[arg-type]
    none = make_boxes([])
    answered = Answered(
        *(manifest, presence, probability, probability, probability),
        *(np.full(rows, np.nan), np.ones((rows, 2)), none, none),
        asked=np.zeros((rows, 0), bool),
        box_sizes=np.zeros((0, 2)),
        box_sizes_from="train",
        unread=(),
    )
    points = {point: dict.fromkeys(ontology.names, 0.2) for point in ("balanced", "f1", "sensitive", "specific")}
    bundle: Any = SimpleNamespace(ontology=ontology, trained=ontology.names, operating_points=points)
    return {
        "classification": classification(bundle, answered, draws),
        "hierarchy": hierarchy(bundle, answered, draws),
        "study": study(bundle, answered, draws),
        **subgroups(bundle, answered, draws),
    }
