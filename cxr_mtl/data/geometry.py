"""Where a point of the film lies in the model's square, and back.  K boxes.

Coordinates are continuous: pixel ``i`` covers ``i`` to ``i + 1``, so a box around a whole picture is ``0, 0, W, H`` and
resizing maps an edge onto an edge. That is the half-pixel convention of Pillow (which ``transforms.to_input`` resizes
with) and of torch with ``align_corners=False``: one rule for pixels and boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The picture, W by H, made as large as fits in a square of ``size`` and put in its middle; the rest is empty.

    Attributes:
        width: of the source frame, pixels.
        height: of the source frame, pixels.
        size: side of the square, pixels.
    """

    width: int
    height: int
    size: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.size) < 1:
            raise ValueError(f"a letterbox needs positive sides, not {self.width} x {self.height} in {self.size}")

    @property
    def scale(self) -> float:
        """Input pixels per source pixel, before the picture is rounded to whole pixels; see ``scale_xy`` for after."""
        return self.size / max(self.width, self.height)

    @property
    def fitted(self) -> tuple[int, int]:
        """Width and height of the picture inside the square: whole pixels, at least one."""
        return max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale))

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Input pixels per source pixel, exactly as the picture was resized; rounding makes the two differ a little."""
        width, height = self.fitted
        return width / self.width, height / self.height

    @property
    def dx(self) -> int:
        """Empty columns left of the picture."""
        return (self.size - self.fitted[0]) // 2

    @property
    def dy(self) -> int:
        """Empty rows above the picture."""
        return (self.size - self.fitted[1]) // 2

    def to_input(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Boxes of the source frame in the square.

        Args:
            boxes: (K, 4) xyxy, source frame.

        Returns:
            (K, 4) xyxy, input frame; not clipped.
        """
        return _boxes(boxes) * self._factor + self._offset

    def to_source(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Boxes of the square in the source frame.

        Args:
            boxes: (K, 4) xyxy, input frame.

        Returns:
            (K, 4) xyxy, source frame, clipped to it: what lay in the empty border shrinks to a line on the edge.
        """
        limit = np.array([self.width, self.height, self.width, self.height], dtype=np.float64)
        clipped: NDArray[np.float64] = np.clip((_boxes(boxes) - self._offset) / self._factor, 0.0, limit)
        return clipped

    @property
    def _factor(self) -> NDArray[np.float64]:
        return np.array(self.scale_xy * 2, dtype=np.float64)

    @property
    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.dx, self.dy, self.dx, self.dy], dtype=np.float64)


def rescale_boxes(boxes: ArrayLike, from_wh: tuple[int, int], to_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes drawn on one copy of a picture, on another copy of another size.

    Args:
        boxes: (K, 4) xyxy in a frame of ``from_wh``.
        from_wh: width and height of that frame.
        to_wh: width and height of the wanted frame; the whole of one picture is the whole of the other.

    Returns:
        (K, 4) xyxy in a frame of ``to_wh``; not clipped.
    """
    if min(*from_wh, *to_wh) < 1:
        raise ValueError(f"frames need positive sides, not {from_wh} and {to_wh}")
    factor = np.array([to_wh[0] / from_wh[0], to_wh[1] / from_wh[1]] * 2, dtype=np.float64)
    return _boxes(boxes) * factor


def _boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """(K, 4) float64, also from an empty list; a ValueError where the rows are not boxes."""
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 4), dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes must be (K, 4), not {array.shape}")
    return array
