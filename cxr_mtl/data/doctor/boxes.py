"""The checks of boxes that need no film: in their frame, of a possible size, of a finding that is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.doctor.problem import Level, Problem, of_films
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.types import ABSENT, PRESENT, Box

_SAME_PIXEL = 1.0
_TINY, _HUGE = 2e-5, 0.9
"""Shares of the frame. NIH's boxes take .0008 to .56, and a nodule of 20 px in a film of VinDr's 6e-5."""
_ENOUGH, _HALF = 10, 0.55
"""One in eight of NIH's boxes lies in the upper left quarter (to .55); that ten of ten do is no chance."""


def examine_boxes(manifest: Manifest) -> Iterator[Problem]:
    """Problems of boxes against their frames and labels."""
    labels, place = manifest.labels(), {name: c for c, name in enumerate(manifest.ontology.names)}
    wrong: defaultdict[str, list[int]] = defaultdict(list)
    for row, (boxes, frame) in enumerate(zip(manifest.table["boxes"], manifest.frames, strict=True)):
        for kind in {_fault(box, frame, labels[row], place) for box in boxes}:
            wrong[kind].append(row)
    for kind, (level, what, fix) in _FAULTS.items():
        yield from of_films(manifest, wrong[kind], level, kind, what, fix)
    yield from _quarter(manifest)


def _fault(box: Box, frame: NDArray[np.float64], labels: NDArray[np.float32], place: Mapping[str, int]) -> str:
    """The first thing that is wrong with a box, by its word in ``_FAULTS``; empty when nothing is."""
    x1, y1, x2, y2 = box.xyxy
    if not np.isfinite(box.xyxy).all() or x2 <= x1 or y2 <= y1:
        return "box-no-area"
    if np.isnan(frame).any():
        return "box-frame-unknown"
    if min(x1, y1) < -_SAME_PIXEL or x2 > frame[0] + _SAME_PIXEL or y2 > frame[1] + _SAME_PIXEL:
        return "box-outside"
    if box.finding not in place:
        return "box-finding"
    label = labels[place[box.finding]]
    if label != PRESENT:
        return "box-label-absent" if label == ABSENT else "box-label-unknown"
    share = (x2 - x1) * (y2 - y1) / (frame[0] * frame[1])
    return "" if _TINY <= share <= _HUGE else "box-size"


def _quarter(manifest: Manifest) -> Iterator[Problem]:
    """Boxes in pixels of a film that was reduced, under the frame of the film before: all end in the upper left."""
    frames = manifest.frames
    for _, rows in sorted(manifest.table.groupby("dataset").indices.items()):
        boxed = [row for row in rows if manifest.boxes(row) and not np.isnan(frames[row]).any()]
        ends = np.array([box.xyxy[2:] / frames[row] for row in boxed for box in manifest.boxes(row)]).reshape(-1, 2)
        if len(ends) >= _ENOUGH and ends.max() <= _HALF:
            what = "have boxes that all end in the upper left quarter of their frame, as in no dataset"
            fix = "Set width and height to the frame of the boxes: the size of the films they were drawn on."
            yield from of_films(manifest, boxed, "error", "box-frame-size", what, fix)


_FAULTS: dict[str, tuple[Level, str, str]] = {
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
    "box-label-unknown": (
        "warning",
        "have a box of a finding whose label is unknown or uncertain",
        "Label the finding present, or drop the box: as it is, only the box head learns of it.",
    ),
    "box-size": (
        "warning",
        f"have a box of less than {_TINY:.3%} or more than {_HUGE:.0%} of its frame",
        "Check the box, and that width and height are the frame it was drawn in.",
    ),
}
