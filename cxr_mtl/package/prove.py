"""The proof, on real films, that a compiled encoder answers as torch's float32 does.  N films, C findings."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.evaluate.boxes import boxes
from cxr_mtl.evaluate.collect import Answered, collect
from cxr_mtl.evaluate.results import classification
from cxr_mtl.metrics.intervals import patient_resamples
from cxr_mtl.predict.compiled import BFLOAT16, FLOAT32, GRAPH, NUMBERS, About
from cxr_mtl.predict.predictor import LocalPredictor

MOST_APART = 0.002
"""AUROC and box accuracy may differ by this."""
LEAST_ALIKE = 0.995
"""Of films, those whose every call is the same."""
MARGIN = 2.5
"""Mean differences from a threshold within which a probability is looked at again."""
MOST_TWICE = 0.33
"""Of films, those that are looked at again: at a half the first look would save nothing, and may be just wrong."""
MOST_FILMS = 512
LEAST_FILMS = 200
"""For bfloat16; of fewer, 99.5 % says little."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ProofFilms:
    """Films to prove an encoder on.

    Attributes:
        manifest: they are in.
        split: of it, at least.
    """

    manifest: Manifest
    split: str


@dataclass(frozen=True)
class Proof:
    """How far apart two encoders are.

    Attributes:
        margins: by finding, see ``MARGIN``; none of float32, which is not looked at again.
        numbers: as ``encoder.yaml`` keeps them.
    """

    margins: Mapping[str, float]
    numbers: Mapping[str, Any]

    @property
    def failures(self) -> list[str]:
        """What is further apart than it may be, or not known where bfloat16 needs it."""
        rows = self.numbers
        if rows["precision"] == BFLOAT16:
            if rows["films"] < LEAST_FILMS:
                return [f"{rows['films']} films are too few, {LEAST_FILMS} are needed"]
            if unknown := [name for name in ("macro_auroc", *rows["boxes_of"]) if rows.get(name) is None]:
                return [f"the films give no {name}" for name in unknown]
        found = [
            f"{name} differs by {rows[name]:.4f}, {MOST_APART} may be"
            for name in ("macro_auroc", "box_accuracy")
            if rows.get(name) is not None and not rows[name] <= MOST_APART
        ]
        found += [
            f"at {point} {share:.1%} of films have the same calls, {LEAST_ALIKE:.1%} must"
            for point, share in rows["same_calls"].items()
            if share < LEAST_ALIKE
        ]
        return found + [
            f"at {point} {share:.1%} of films must be looked at twice, {MOST_TWICE:.0%} may"
            for point, share in rows["second_looks"].items()
            if share > MOST_TWICE
        ]


def in_words(numbers: Mapping[str, Any]) -> str:
    """What a proof found."""
    auroc, found = numbers["macro_auroc"], numbers["box_accuracy"]
    moved = "has no AUROC" if auroc is None else f"moves macro AUROC by {auroc:.4f}"
    moved += "" if found is None else f", box accuracy by {found:.4f}"
    alike, again = min(numbers["same_calls"].values()), max(numbers["second_looks"].values())
    return (
        f"on {numbers['films']} films of {numbers['dataset']} {numbers['split']} it {moved}; "
        f"all calls alike on {alike:.1%} of films, {again:.1%} looked at twice"
    )


def prove(
    bundle: Bundle, folder: Path, films: ProofFilms, most: int = MOST_FILMS, margins: Mapping[str, float] | None = None
) -> Proof:
    """Ask torch's float32 and the compiled encoder of ``folder`` for the same films.

    Args:
        bundle: on the CPU.
        folder: of the compiled encoder.
        films: with readers' labels.
        most: of them.
        margins: that other films gave; None fits them to these.
    """
    precision = About.read(folder).precision
    some = _some(films, most)

    def answers(side: Bundle) -> Answered:
        asked = LocalPredictor(side, device="cpu")
        return collect(asked, some.manifest, some.split, batch_size=8, progress=False)

    exact, other = answers(bundle), answers(replace(bundle, folder=folder))
    again_looked = other.probability
    if precision == BFLOAT16:
        with tempfile.TemporaryDirectory() as temp:
            again_looked = answers(replace(bundle, folder=_in_float32(folder, Path(temp)))).probability
    apart = np.abs(exact.probability - other.probability)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a finding never trained has no mean
        means = np.nanmean(apart, axis=0) if len(apart) else np.zeros(apart.shape[1])
    names = bundle.ontology.names
    known = zip(names, means.tolist(), strict=True) if precision == BFLOAT16 else ()
    fitted = {name: round(MARGIN * mean, 6) for name, mean in known if np.isfinite(mean)}
    margins = fitted if margins is None else margins
    same, again = {}, {}
    for point, cuts in bundle.operating_points.items():
        looks = exact.probability, other.probability, again_looked
        same[point], again[point] = calls_alike(*looks, names, cuts, margins)
    return Proof(
        margins,
        {
            "dataset": ", ".join(sorted(set(some.manifest.table["dataset"]))),
            "split": some.split,
            "films": len(apart),
            "precision": precision,
            "boxes_of": ["box_accuracy"] if bundle.box_findings else [],
            **compare(bundle, exact, other),
            "same_calls": same,
            "second_looks": again,
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "openvino")},
        },
    )


def compare(bundle: Bundle, exact: Answered, other: Answered) -> dict[str, Any]:
    """How far apart two ways to compute a bundle are on the same films, with no second look."""
    apart = np.abs(exact.probability - other.probability)
    looks = exact.probability, other.probability, other.probability
    names, points = bundle.ontology.names, bundle.operating_points
    return {
        "macro_auroc": _apart(_auroc(bundle, exact), _auroc(bundle, other)),
        "box_accuracy": _apart(_box_accuracy(bundle, exact), _box_accuracy(bundle, other)),
        "probability": {"mean": float(np.nanmean(apart)), "most": float(np.nanmax(apart))},
        "same_calls_at_first": {point: calls_alike(*looks, names, cuts, {})[0] for point, cuts in points.items()},
    }


def _some(films: ProofFilms, most: int) -> ProofFilms:
    """At most ``most`` of the split, drawn once for all; the train split goes along for its boxes' sizes."""
    table = films.manifest.table
    mine = np.flatnonzero(films.manifest.splits == films.split)
    if len(mine) <= most:
        return films
    kept = np.sort(np.random.default_rng(0).choice(mine, most, replace=False))
    rows = np.sort(np.concatenate([np.flatnonzero(films.manifest.splits == "train"), kept]))
    return ProofFilms(replace(films.manifest, table=table.iloc[rows].reset_index(drop=True)), films.split)


def _in_float32(folder: Path, copy: Path) -> Path:
    """The compiled encoder of a folder as second looks use it."""
    for name in (GRAPH, NUMBERS):
        shutil.copyfile(folder / name, copy / name)
    replace(About.read(folder), precision=FLOAT32).write(copy)
    return copy


def calls_alike(
    exact: Floats,
    first: Floats,
    second: Floats,
    names: tuple[str, ...],
    cuts: Mapping[str, float],
    margins: Mapping[str, float],
) -> tuple[float, float]:
    """Share of films whose calls are all the same once the doubtful were looked at again, and the share of those."""
    columns = [i for i, name in enumerate(names) if name in cuts]
    cut = np.array([cuts[names[i]] for i in columns])
    margin = np.array([margins.get(names[i], 0.0) for i in columns])
    exact, first, second = exact[:, columns], first[:, columns], second[:, columns]
    again = (np.abs(first - cut) < margin).any(axis=1)
    answered = np.where(again[:, None], second, first)
    alike = ((exact >= cut) == (answered >= cut)).all(axis=1)
    return float(alike.mean()), float(again.mean())


def _auroc(bundle: Bundle, answered: Answered) -> dict[str, float | None]:
    draws = patient_resamples(answered.manifest.patient_ids, 1, 0)
    return {"macro": classification(bundle, answered, draws)["macro"]["auroc"]["value"]}


def _box_accuracy(bundle: Bundle, answered: Answered) -> dict[str, float | None]:
    if not bundle.box_findings:
        return {}
    draws = patient_resamples(answered.manifest.patient_ids, 1, 0)
    found = boxes(bundle.box_findings, answered.located(range(len(bundle.box_findings))), draws, 0)
    return {at: row["mean"]["value"] for at, row in found.get("accuracy_at_tiou", {}).items()}


def _apart(first: Mapping[str, float | None], second: Mapping[str, float | None]) -> float | None:
    """The largest difference of numbers that both have."""
    pairs = [(value, second[name]) for name, value in first.items()]
    apart = [abs(a - b) for a, b in pairs if a is not None and b is not None]
    return float(max(apart)) if apart else None
