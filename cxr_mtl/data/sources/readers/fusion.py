"""Boxes that several readers drew around the same thing, made one.  K boxes, xyxy in any one frame.

Weighted box fusion (Solovyev, Wang and Gabruseva 2021) without weights, for a reader gives no confidence: a box joins
the fused box that it overlaps most, and the fused box becomes the mean of its members.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxr_mtl.types import Box

SAME = 0.4
"""Intersection over union from which two boxes are of one thing: what VinBigData's own metric counts as found."""


def fuse_boxes(boxes: Sequence[Box], *, same: float = SAME) -> tuple[Box, ...]:
    """One box for each thing that was seen; what the boxes are of is settled by finding and place.

    Two boxes of one reader are two things, so a fused box has at most one box of each reader. The order of the boxes
    does not matter: they are gone through from left to right.

    Args:
        boxes: of one film, in one frame.
        same: intersection over union, 0 to 1, from which boxes of one finding are fused.

    Returns:
        Fused boxes, whose ``reader`` names all readers (``R8+R9``), and those that nothing was fused with, unchanged;
        by finding, then from left to right.
    """
    out: list[Box] = []
    for finding in sorted({box.finding for box in boxes}):
        of_one = sorted((b for b in boxes if b.finding == finding), key=lambda b: (b.xyxy, b.reader))
        groups: list[list[Box]] = []
        for box in of_one:
            group = _nearest(groups, box, same)
            if group is None:
                groups.append([box])
            else:
                group.append(box)
        out += sorted((_mean(group) for group in groups), key=lambda b: (b.xyxy, b.reader))
    return tuple(out)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes with an area, 0 to 1."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (_area(a) + _area(b) - shared)


def _area(box: Box) -> float:
    return (box.x2 - box.x1) * (box.y2 - box.y1)


def _nearest(groups: Sequence[list[Box]], box: Box, same: float) -> list[Box] | None:
    best, most = None, same
    for group in groups:
        if any(member.reader == box.reader for member in group):
            continue
        shared = overlap(_mean(group), box)
        if shared >= most and (best is None or shared > most):
            best, most = group, shared
    return best


def _mean(group: Sequence[Box]) -> Box:
    if len(group) == 1:
        return group[0]
    x1, y1, x2, y2 = np.mean([box.xyxy for box in group], axis=0).tolist()
    return Box(group[0].finding, x1, y1, x2, y2, "+".join(sorted(box.reader for box in group)))
