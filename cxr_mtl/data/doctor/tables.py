"""The checks that need no film. N images, C findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.doctor.problem import Level, Problem, of_films
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.split import SPLITS, shared_patients
from cxr_mtl.types import ABSENT, PRESENT, UNCERTAIN, Box

ADULT = 16
"""Years. Below it a chest looks different; NIH's and most public sets are of adults."""

_RESPLIT = "Split again with: cxr-mtl data split."
_SAME_PIXEL = 1.0


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
    # As training will see them. What nobody labels but follows from the tree is left aside: there is nothing to mend.
    values = m.ontology.propagate(stated)
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


def _boxes(m: Manifest) -> Iterator[Problem]:
    labels, place = m.labels(), {name: c for c, name in enumerate(m.ontology.names)}
    wrong: defaultdict[str, list[int]] = defaultdict(list)
    for row, (boxes, frame) in enumerate(zip(m.table["boxes"], m.frames, strict=True)):
        for kind in {_fault(box, frame, labels[row], place) for box in boxes}:
            wrong[kind].append(row)
    for kind, (level, what, fix) in _BOX_FAULTS.items():
        yield from of_films(m, wrong[kind], level, kind, what, fix)


def _fault(box: Box, frame: NDArray[np.float64], labels: NDArray[np.float32], place: Mapping[str, int]) -> str:
    """The first thing that is wrong with a box, by its word in ``_BOX_FAULTS``; empty when nothing is."""
    x1, y1, x2, y2 = box.xyxy
    if not np.isfinite(box.xyxy).all() or x2 <= x1 or y2 <= y1:
        return "box-no-area"
    if np.isnan(frame).any():
        return "box-frame-unknown"
    if min(x1, y1) < -_SAME_PIXEL or x2 > frame[0] + _SAME_PIXEL or y2 > frame[1] + _SAME_PIXEL:
        return "box-outside"
    if box.finding not in place:
        return "box-finding"
    return "box-label-absent" if labels[place[box.finding]] == ABSENT else ""


def _views(m: Manifest) -> Iterator[Problem]:
    lateral = np.flatnonzero(m.table["view"] == "LATERAL")
    what = "are lateral views, which look nothing like frontal ones"
    yield from of_films(m, lateral, "warning", "lateral", what, "Leave them out, or train on laterals on purpose.")
    young = np.flatnonzero(m.table["age"].to_numpy() < ADULT)
    what = f"are of patients under {ADULT}"
    yield from of_films(
        m, young, "warning", "child", what, "Leave them out of a model for adults; never set them against adults."
    )


_BOX_FAULTS: dict[str, tuple[Level, str, str]] = {
    "box-no-area": (
        "error",
        "have a box without area",
        "Boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2: no width and height.",
    ),
    "box-frame-unknown": (
        "error",
        "have boxes in a frame of unknown size",
        "Set width and height to the frame of the boxes.",
    ),
    "box-outside": ("error", "have a box that leaves its frame", "Set width and height to the frame of the boxes."),
    "box-finding": (
        "error",
        "have a box of a finding that the ontology does not have",
        "Translate it, or drop the box.",
    ),
    "box-label-absent": ("warning", "have a box of a finding that is labelled absent", "Mend the label or the box."),
}
_CHECKS: tuple[Callable[[Manifest], Iterator[Problem]], ...] = (
    _repeated,
    _label_values,
    _splits,
    _one_sided,
    _hierarchy,
    _normal,
    _boxes,
    _views,
)
