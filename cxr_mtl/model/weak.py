"""Boxes learned without boxes: from where the findings head looks.  B films, C findings, H W places, S input side."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

FINER = 4  # times as many places a side, between which the map is interpolated
SHARE = 0.5  # of the way from the map's median to its peak, above which a place belongs to the box


def weak_boxes(places: Tensor, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One box of every finding: around the places about the surest one that are at least half as sure.

    Args:
        places: (B, C, H, W) logits.
        side: S.

    Returns:
        (B, C, 4) xyxy in the input frame, and (B, C) scores, 0 to 1: of the surest place.
    """
    map_size = (places.shape[2] * FINER, places.shape[3] * FINER)
    finer = F.interpolate(places.float(), map_size, mode="bilinear", align_corners=False)
    probability = torch.sigmoid(finer).cpu().numpy()
    pixel = side / np.array([map_size[1], map_size[0]] * 2)
    boxes = np.empty((*probability.shape[:2], 4), np.float32)
    for film, finding in np.ndindex(*probability.shape[:2]):
        boxes[film, finding] = _around_peak(probability[film, finding]) * pixel
    return boxes, probability.max((2, 3))


def _around_peak(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """(4,) xyxy, in places."""
    peak, median = probability.max(), np.median(probability)
    parts, _ = ndimage.label(probability >= median + SHARE * (peak - median))
    at = parts.flat[int(probability.argmax())]
    rows, columns = ndimage.find_objects(parts)[at - 1]
    return np.array([columns.start, rows.start, columns.stop, rows.stop], np.float64)
