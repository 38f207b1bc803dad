"""Places at which several findings have a box, told once: boxes fused whatever they are of.  Pure.  K boxes, xyxy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import tensor
from torchvision.ops import box_iou

from cxr_mtl.types import Region, ScoredBox

SAME = 0.5  # intersection over union from which two boxes are of one place


def fuse_regions(boxes: Sequence[ScoredBox]) -> tuple[Region, ...]:
    """Weighted box fusion (Solovyev, Wang and Gabruseva, 2021) across findings.

    From the highest score down, a box joins the region that it overlaps most, if it does so by half and none of its
    own finding is in it; the region's box is the mean of its members, each weighing as much as its score.

    Args:
        boxes: of one film, as they are shown.

    Returns:
        regions, the one with the highest score first; every box is in one.
    """
    groups: list[list[ScoredBox]] = []
    for box in sorted(boxes, key=lambda b: -b.score):
        open_groups = [g for g in groups if box.finding not in {member.finding for member in g}]
        overlaps = [float(box_iou(tensor([box.xyxy]), tensor([_mean(g)]))) for g in open_groups]
        if overlaps and max(overlaps) >= SAME:
            open_groups[int(np.argmax(overlaps))].append(box)
        else:
            groups.append([box])
    return tuple(Region(_mean(g), tuple((b.finding, b.score) for b in g)) for g in groups)


def _mean(group: Sequence[ScoredBox]) -> tuple[float, float, float, float]:
    weights = np.array([box.score for box in group])
    x1, y1, x2, y2 = np.average([box.xyxy for box in group], axis=0, weights=weights + 1e-9).round(2).tolist()
    return x1, y1, x2, y2
