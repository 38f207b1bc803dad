"""Text that is burnt into a film, told by its lay-out, not read.  H W pixels, K signs, L lines.

A side marker, initials or "PORTABLE" with the hour are usual and stay under three lines. A block of at least three
lines of at least four signs each, of one size and close together, is what names, numbers and dates look like.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

LINES, SIGNS = 3, 4

_WINDOW = 0.03  # of the longer side: what a stroke has to be brighter than
_BRIGHTER, _BRIGHT = 26, 0.5  # of 255, and of the brightest pixel
_LOW, _TALL = 0.007, 0.05  # height of a sign, of the longer side
_PIXELS = 5  # what is lower cannot be told from noise
_MOST_SIGNS = 5000


def lines_of_text(picture: Image.Image) -> int:
    """Lines of the largest block of bright text; 1 is a word.

    Args:
        picture: 8-bit grey, not over about 1024 px, or strokes take long to label.
    """
    signs = _signs(_strokes(picture), max(picture.size))
    return _largest_block(_lines(signs))


def _strokes(picture: Image.Image) -> NDArray[np.bool_]:
    radius = max(4, int(max(picture.size) * _WINDOW) // 2)
    grey = np.asarray(picture).astype(np.int16)
    around = np.asarray(picture.filter(ImageFilter.BoxBlur(radius)))
    strokes: NDArray[np.bool_] = (grey > around + np.int16(_BRIGHTER)) & (grey > _BRIGHT * grey.max())
    return strokes


def _signs(strokes: NDArray[np.bool_], side: int) -> NDArray[np.int64]:
    """(K, 4) boxes, xyxy, of the separate strokes that have the size and shape of a sign, from left to right."""
    labels, num = ndimage.label(strokes, np.ones((3, 3)))
    if num < LINES * SIGNS:
        return np.zeros((0, 4), dtype=np.int64)
    boxes = np.array([(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in ndimage.find_objects(labels)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    full = np.bincount(labels.ravel(), minlength=num + 1)[1:] / (width * height)
    fits = (height >= max(_PIXELS, _LOW * side)) & (height <= _TALL * side) & (width <= 4 * height)
    boxes = boxes[fits & (full > 0.15) & (full < 0.95)]
    signs: NDArray[np.int64] = boxes[np.argsort(boxes[:, 0], kind="stable")][:_MOST_SIGNS]
    return signs


def _lines(signs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L, 4) boxes of the rows of at least four signs of one height, close behind one another."""
    lines, free = [], np.ones(len(signs), dtype=bool)
    heights, middles = signs[:, 3] - signs[:, 1], (signs[:, 3] + signs[:, 1]) / 2
    for first in range(len(signs)):
        if not free[first]:
            continue
        tall = heights[first]
        alike = np.flatnonzero(
            free[first:] & (np.abs(middles[first:] - middles[first]) < 2 * tall) & _alike(heights[first:], tall)
        )
        line = [first]
        for sign in alike + first:
            gap = signs[sign, 0] - signs[line[-1], 2]
            if sign != first and -tall <= gap <= 2 * tall and abs(middles[sign] - middles[line[-1]]) < 0.35 * tall:
                line.append(int(sign))
        free[line] = False
        if len(line) >= SIGNS:
            lines.append([*signs[line, :2].min(axis=0), *signs[line, 2:].max(axis=0)])
    return np.array(lines, dtype=np.int64).reshape(-1, 4)


def _largest_block(lines: NDArray[np.int64]) -> int:
    """The most lines of one size that lie over one another, near each other."""
    most = 0
    for left, top, right, bottom in lines:
        tall = bottom - top
        over = np.minimum(lines[:, 2], right) > np.maximum(lines[:, 0], left)
        near = np.abs(lines[:, 1] - top) < 8 * tall
        block = lines[over & near & _alike(lines[:, 3] - lines[:, 1], tall)]
        rows = np.sort(block[:, 1] + block[:, 3]) / 2
        most = max(most, 1 + int((np.diff(rows) > 0.6 * tall).sum()))
    return most


def _alike(heights: NDArray[np.int64], tall: int) -> NDArray[np.bool_]:
    alike: NDArray[np.bool_] = (heights > tall / 2) & (heights < tall * 2)
    return alike
