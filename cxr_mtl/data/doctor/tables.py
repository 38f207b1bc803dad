"""The checks that need no film. N images, C findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.doctor.boxes import examine_boxes
from cxr_mtl.data.doctor.people import examine_people
from cxr_mtl.data.doctor.problem import Level, Problem, of_films
from cxr_mtl.data.doctor.shortcuts import examine_shortcuts
from cxr_mtl.data.leaks import boxed_in_train, find_leaks
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.policy import measured_labels
from cxr_mtl.data.split import SPLITS, shared_patients
from cxr_mtl.types import ABSENT, PRESENT, UNCERTAIN

_RESPLIT = "Split again with: cxr-mtl data split."


def examine_table(manifest: Manifest) -> Iterator[Problem]:
    """Problems of labels, splits, boxes and patients."""
    for check in _CHECKS:
        yield from check(manifest)


def _repeated(m: Manifest) -> Iterator[Problem]:
    for column, check, what in (
        ("image_path", "row-repeated", "are in an earlier row already"),
        ("image_id", "id-repeated", "have the image_id of another film"),
    ):
        again = m.table.duplicated(["dataset", column])
        if column == "image_id":
            again &= ~m.table["image_path"].duplicated()
        yield from of_films(
            m, np.flatnonzero(again), "error", check, what, "Keep one row a film, each with its own image_id."
        )


def _label_values(m: Manifest) -> Iterator[Problem]:
    values = m.labels()
    bad = ~(np.isnan(values) | np.isin(values, (PRESENT, ABSENT, UNCERTAIN)))
    names = ", ".join(np.asarray(m.ontology.names)[bad.any(axis=0)])
    what = f"have a label other than 1, 0, -1 and unknown ({names})"
    yield from of_films(
        m, np.flatnonzero(bad.any(axis=1)), "error", "label-value", what, "Write unknown as an empty cell."
    )


def _splits(m: Manifest) -> Iterator[Problem]:
    split = m.table["split"]
    if split.isna().all():
        yield Problem("warning", "no-split", "", len(m), "no film is in a split", "Split with: cxr-mtl data split.")
        return
    strange = np.flatnonzero(split.notna() & ~split.isin(SPLITS))
    yield from of_films(m, strange, "error", "split-name", "are in a split other than train, val and test", _RESPLIT)
    yield from of_films(
        m, np.flatnonzero(split.isna()), "warning", "no-split", "are in no split: nothing will use them", _RESPLIT
    )
    for name in SPLITS:
        if not (split == name).any():
            level: Level = "error" if name == "val" and (split == "train").any() else "warning"
            yield Problem(level, "split-empty", "", 0, f"no film is in {name}", _RESPLIT)
    rows = shared_patients(m)
    what = f"are of {len(set(m.patient_ids[rows])):,} patients who are in more than one split"
    yield from of_films(m, rows, "error", "patient-overlap", what, _RESPLIT)


def _one_sided(m: Manifest) -> Iterator[Problem]:
    """Findings with one answer only: nothing to learn in train, nothing to measure in val and test."""
    stated, names = m.labels(), m.ontology.names
    labelled = ((stated == PRESENT) | (stated == ABSENT)).any(axis=0)
    # As metrics will see them. What nobody labels but follows from the tree is left aside: there is nothing to mend.
    values = measured_labels(m, LabelsConfig())
    split = m.splits
    for word, value in (("present", PRESENT), ("absent", ABSENT)):
        anywhere = labelled & (values == value).any(axis=0)
        yield from _lacking(names, labelled & ~anywhere, f"never {word}", "the manifest")
        for name in SPLITS:
            rows = split == name
            if rows.any():
                here = (values[rows] == value).any(axis=0)
                yield from _lacking(names, anywhere & ~here, f"never {word}", name)


def _lacking(names: tuple[str, ...], which: NDArray[np.bool_], what: str, where: str) -> Iterator[Problem]:
    if which.any():
        those = [name for name, yes in zip(names, which, strict=True) if yes]
        fix = "Their scores cannot be measured there; expect them to be skipped."
        yield Problem("warning", "one-sided", "", len(those), f"in {where} {what}: {', '.join(those)}", fix)


def _hierarchy(m: Manifest) -> Iterator[Problem]:
    values, names = m.labels(), m.ontology.names
    wrong, pairs = np.zeros(len(m), dtype=bool), []
    for child, parent in m.ontology.edges:
        rows = (values[:, child] == PRESENT) & (values[:, parent] == ABSENT)
        wrong |= rows
        if rows.any():
            pairs.append(f"{names[child]} without {names[parent]}")
    what = f"have a finding present whose parent is absent ({', '.join(pairs[:3])}{', ...' if len(pairs) > 3 else ''})"
    fix = "Training takes the finding as present, and its parents with it; mend the labels if that is wrong."
    yield from of_films(m, np.flatnonzero(wrong), "warning", "child-without-parent", what, fix)


def _normal(m: Manifest) -> Iterator[Problem]:
    tree = m.ontology
    if tree.normal is None:
        return
    values = m.labels()
    allowed = {tree.normal, *tree.normal_allows}
    others = [c for c, name in enumerate(tree.names) if name not in allowed]
    wrong = (values[:, tree.index(tree.normal)] == PRESENT) & (values[:, others] == PRESENT).any(axis=1)
    what = f"are labelled {tree.normal} and have findings as well"
    yield from of_films(
        m, np.flatnonzero(wrong), "warning", "normal-with-findings", what, "Mend the labels of these films."
    )


def _unlabelled(m: Manifest) -> Iterator[Problem]:
    """Films without any label or box, and datasets that consist of such films."""
    silent = np.isnan(m.labels()).all(axis=1) & ~np.asarray([bool(boxes) for boxes in m.table["boxes"]], dtype=bool)
    whole = pd.Series(silent).groupby(m.table["dataset"]).transform("all").to_numpy(bool)
    names = ", ".join(sorted(set(m.table["dataset"][whole])))
    what, fix = f"are of a dataset without a single label ({names})", "Check the ontology and names of its findings."
    yield from of_films(m, np.flatnonzero(whole), "warning", "dataset-unlabelled", what, fix)
    what, fix = "have neither a label nor a box", "Label them, or leave them out: only self-supervision can use them."
    yield from of_films(m, np.flatnonzero(silent & ~whole), "warning", "unlabelled", what, fix)


def _leaks(m: Manifest) -> Iterator[Problem]:
    told: set[int] = set()
    for leak in find_leaks(m):
        yield from of_films(m, leak.rows, "error", leak.check, leak.what, leak.fix)
        told.update(leak.rows.tolist())
    rows = [row for row in boxed_in_train(m) if row not in told]
    what = "are NIH films with boxes, in training; all of NIH's boxed films are in its official test list"
    fix = "Report no numbers on NIH's official test list with a model of these, or use the official lists."
    yield from of_films(m, rows, "warning", "boxed-in-train", what, fix)


_CHECKS: tuple[Callable[[Manifest], Iterator[Problem]], ...] = (
    _repeated,
    _label_values,
    _unlabelled,
    _splits,
    _leaks,
    _one_sided,
    _hierarchy,
    _normal,
    examine_boxes,
    examine_people,
    examine_shortcuts,
)
