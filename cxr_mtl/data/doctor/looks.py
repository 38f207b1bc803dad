"""What a film looks like: arithmetic on its pixels, for the doctor.  H W pixels.

The numbers below were set on the 2,219 NIH and 890 paediatric films of the project's test data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_mtl.data.doctor.text import lines_of_text

SIDE = 1024
"""Pixels; a film with a longer side is reduced to at most this before it is looked at."""
THUMB = 32
"""Side of the thumbnail that copies are told by."""

_HALF = np.array(
    [
        [-18, -13, -7, 5],
        [-9, 0, -1, 3],
        [-7, 2, -6, 3],
        [-9, 1, -5, 8],
        [-11, 0, 0, 12],
        [-13, 0, 5, 14],
        [-14, 3, 12, 17],
        [-14, 9, 17, 20],
    ],
    dtype=np.float64,
)
_MEAN_CHEST = np.hstack([_HALF, _HALF[:, ::-1]]) / np.linalg.norm(np.hstack([_HALF, _HALF]))
"""(8, 8) unit length, mean 0: the usual frontal chest, dense is high, both halves alike."""

_INVERTED = -0.2
"""Correlation with the usual chest; of the test films the lowest has .01, and 99.7 % have more than .2."""
_TURNED = 0.45
"""By how much a turned chest fits better; of the test films one, which does lie on its head, has .50, the next .41."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one film turned out to be.

    Attributes:
        thumb: (32, 32) uint8.
        white: share of the pixels that are as bright as the brightest, 0 to 1.
        black: share that are as dark as the darkest.
        greys: how many of 256 shades occur.
        inverted: the film fits an inverted chest, and an upright one not at all.
        turned: it fits a chest that lies on its side or head far better than an upright one.
        text: lines of the largest block of text in it.
    """

    thumb: NDArray[np.uint8]
    white: float
    black: float
    greys: int
    inverted: bool
    turned: bool
    text: int


def look_at(pixels: NDArray[np.float32]) -> Look:
    """Measure a film of (H, W) pixels, 0 to 1, bright is dense."""
    grey = np.multiply(pixels, 255, dtype=np.float32).astype(np.uint8)
    counts = np.bincount(grey.ravel(), minlength=256)
    shades = np.flatnonzero(counts)
    low, high = int(shades[0]), int(shades[-1])
    picture = Image.fromarray(grey)
    if (factor := -(-max(grey.shape) // SIDE)) > 1:
        picture = picture.reduce(factor)
    thumb = np.asarray(picture.resize((THUMB, THUMB), Image.Resampling.BOX))
    inverted, turned = lie_of(thumb)
    return Look(
        thumb,
        white=float(counts[max(high - 1, 0) :].sum() / grey.size),
        black=float(counts[: low + 2].sum() / grey.size),
        greys=len(shades),
        inverted=inverted,
        turned=turned,
        text=lines_of_text(picture),
    )


def lie_of(thumb: NDArray[np.uint8]) -> tuple[bool, bool]:
    """Whether a (32, 32) frontal film is inverted, and whether it lies on its side or head.

    Of eight chests (four ways to lie, dense as bright or as dark) the one that it is most like must be far more like it
    than the upright one is. Of the test films it finds 99.4 % when inverted, turned 20 % (children on their heads) to
    99 %, and none as they are but one, which does lie on its head.
    """
    coarse = thumb.reshape(8, THUMB // 8, 8, THUMB // 8).mean((1, 3), dtype=np.float64)
    coarse -= coarse.mean()
    size = float(np.linalg.norm(coarse))
    if size < 1e-6:
        return False, False
    upright, *turned = (float((np.rot90(_MEAN_CHEST, turn) * coarse).sum()) / size for turn in range(4))
    best = max(turned)
    return upright < _INVERTED and -upright >= best, best - upright > _TURNED and best > -upright
