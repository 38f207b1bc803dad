"""What the gate looks at: a film's picture without its empty border, made small.  N films, S input side.

Shape and size of the file say nothing of what is on it, and black bars are added and cut off by every archive, so both
are taken away before anything is compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_mtl.data.geometry import Letterbox

Floats = NDArray[np.float64]

SIDE = 128
"""Of a thumbnail, pixels."""
FORMS = 128
"""Numbers that say where which edges run."""
LOOKS = 12
"""Numbers that say how sharp, how rough and how grey a film is."""

_SMALL, _CELLS, _WAYS = (
    64,
    4,
    8,
)  # a picture's side, cells a side, directions: coarse, so that a child's chest is one too
_EVEN = 10  # grey levels that the noise of JPEG gives an empty border
_LEAST = 0.4  # of a side that is left, however empty the rest


@dataclass(frozen=True, slots=True)
class Glimpses:
    """What the gate keeps of films.

    Attributes:
        thumbs: (N, SIDE, SIDE) uint8.
        looks: (N, LOOKS).
    """

    thumbs: NDArray[np.uint8]
    looks: Floats

    def __len__(self) -> int:
        return len(self.thumbs)


def glimpse(films: Iterable[tuple[NDArray[np.uint8], Letterbox]]) -> Glimpses:
    """What the gate sees of films in a model's input square, (S, S), as packs and ``transforms.to_input`` have them."""
    parts = [cut_out(square, box) for square, box in films]
    thumbs = np.stack([reduced(film, SIDE) for film in parts])
    return Glimpses(thumbs, np.stack([looks(film) for film in parts]))


def cut_out(square: NDArray[np.uint8], box: Letterbox) -> NDArray[np.uint8]:
    """(h, w) the film in the square, without empty rows and columns at its edges."""
    width, height = box.fitted
    film = square[box.dy : box.dy + height, box.dx : box.dx + width]
    small = reduced(film, SIDE)
    (top, bottom), (left, right) = (
        (round(first * size / SIDE), round(last * size / SIDE))
        for (first, last), size in ((_filled(small, 1), height), (_filled(small, 0), width))
    )
    return film[top : max(bottom, top + 1), left : max(right, left + 1)]


def reduced(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(side, side) of a grey picture of any shape."""
    small = Image.fromarray(np.ascontiguousarray(picture)).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small)


def forms(thumbs: NDArray[np.uint8]) -> Floats:
    """(N, FORMS) histograms of oriented gradients (Dalal and Triggs, 2005) of (N, SIDE, SIDE) thumbnails.

    Dark to bright and bright to dark count apart, or a film with inverted greys would look like a film. Square roots
    of what each cell holds, over the mean of all: contrast goes out, and no single edge outweighs the rest.
    """
    small = np.stack([reduced(thumb, _SMALL) for thumb in thumbs]).astype(np.float32)
    small -= small.mean((1, 2), keepdims=True)
    small = np.clip(small / (small.std((1, 2), keepdims=True) + 1), -2.5, 2.5)
    down, right = np.zeros_like(small), np.zeros_like(small)
    down[:, 1:-1] = small[:, 2:] - small[:, :-2]
    right[:, :, 1:-1] = small[:, :, 2:] - small[:, :, :-2]
    strength = np.hypot(right, down).ravel()
    way = np.arctan2(down, right).ravel() * np.float32(_WAYS / (2 * np.pi))
    below = np.floor(way)
    share = way - below
    at = np.arange(_SMALL) * _CELLS // _SMALL
    cell = np.arange(len(small))[:, None, None] * _CELLS**2 + at[None, :, None] * _CELLS + at[None, None]
    held = np.zeros(len(small) * FORMS)
    for step, part in ((0, 1 - share), (1, share)):  # a direction between two counts for both
        place = cell.ravel() * _WAYS + (below.astype(np.int64) + step) % _WAYS
        held += np.bincount(place, strength * part, len(held))
    films = held.reshape(len(small), FORMS)
    return np.asarray(np.sqrt(films / (np.sqrt((films**2).mean(1, keepdims=True)) + 1e-6)))


def looks(film: NDArray[np.uint8]) -> Floats:
    """(LOOKS,) fine structure at three scales against the whole's contrast, contrast, and five quantiles of grey.

    Blur takes fine structure away and noise adds to it, neither of which a thumbnail shows.
    """
    values = film.astype(np.float32)
    spread = float(values.std()) + 1
    half = _halved(values)
    fine = [np.log((part + 0.05) / spread) for scale in (values, half, _halved(half)) for part in _roughness(scale)]
    return np.array([*fine, np.log(spread), *np.percentile(values, (5, 25, 50, 75, 95)) / 255])


def _halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    even = values[: len(values) // 2 * 2, : values.shape[1] // 2 * 2]
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / np.float32(4)


def _roughness(values: NDArray[np.float32]) -> tuple[float, float]:
    """What a pixel differs from its neighbours by: in the mean square, where edges rule, and in the median, without."""
    if min(values.shape) < 3:
        return 0.0, 0.0
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    apart = values[1:-1, 1:-1] - around / np.float32(4)
    return float(np.sqrt((apart**2).mean())), float(np.median(np.abs(apart)))


def _filled(film: NDArray[np.uint8], axis: int) -> tuple[int, int]:
    """Where the rows (axis 1) or columns (axis 0) between empty borders begin and end."""
    low, high = np.percentile(film, (2, 98), axis=axis)
    full = np.flatnonzero(high - low > _EVEN)
    if not len(full) or full[-1] + 1 - full[0] < _LEAST * SIDE:
        return 0, SIDE
    return int(full[0]), int(full[-1]) + 1
