"""From a film to what the model sees. THE preprocessing: packing for training and prediction both call it.

H W pixels of the film, S side of the model's square.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_mtl.data.geometry import Letterbox


def to_input(pixels: NDArray[np.float32], size: int) -> tuple[NDArray[np.uint8], Letterbox]:
    """The film in the model's square: aspect kept, as large as fits, centred, the rest 0.

    The resize is Pillow's triangle filter on float32: made wider by the reduction, so it averages every source pixel
    and fine lines do not flicker in and out with the size of the copy. It equals torch's antialiased bilinear
    interpolation, in 1.3 ms against 16 ms for 1024 px on two throttled cores, without a thread pool per worker.

    Args:
        pixels: (H, W) 0 to 1, bright is dense.
        size: S.

    Returns:
        (S, S) 0 to 255, rounded to nearest; and the letterbox that maps boxes there and back.
    """
    height, width = pixels.shape
    box = Letterbox(width, height, size)
    film = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    small = np.asarray(film.resize(box.fitted, Image.Resampling.BILINEAR))
    square = np.zeros((size, size), dtype=np.uint8)
    rows, columns = slice(box.dy, box.dy + box.fitted[1]), slice(box.dx, box.dx + box.fitted[0])
    square[rows, columns] = np.rint(np.clip(small, 0.0, 1.0) * 255.0)
    return square, box
