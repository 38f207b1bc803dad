"""How large a film is, from its header: for datasets that give boxes in pixels but not the frame they are in."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.container import JPEG_MAGIC, PNG_MAGIC, walk_jpeg, walk_png
from cxr_mtl.data.elements import is_dicom
from cxr_mtl.errors import ImageError

MAX_SIDE = 65535
"""Pixels; DICOM has two bytes for a side, and no film is as large."""

_HEAD = 256
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that lay a picture on its side."""


def are_sizes(sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which numbers, of any shape, can be the side of a film: whole ones from 1 to ``MAX_SIDE``."""
    good: NDArray[np.bool_] = (sizes >= 1) & (sizes <= MAX_SIDE) & (sizes == np.floor(sizes))
    return good


def film_size(path: Path) -> tuple[int, int] | None:
    """Width and height in the frame that boxes are in, decoding no pixel; a DICOM file is read up to its pixels only.

    The frame is that of ``read_image``: a picture with an EXIF orientation counts as turned upright.

    Returns:
        None where there is no such file, or none whose header can be read; ``read_image`` says what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if is_dicom(head):
            return _dicom_size(path)
        if head.startswith(PNG_MAGIC):
            found = walk_png(path.read_bytes())
        elif head.startswith(JPEG_MAGIC):
            found = walk_jpeg(path.read_bytes())
        else:
            return None
    except (OSError, ImageError):
        return None
    size = (found.height, found.width) if found.orientation in _TURNED else (found.width, found.height)
    return size if are_sizes(np.asarray(size, dtype=np.float64)).all() else None


def _dicom_size(path: Path) -> tuple[int, int] | None:
    import pydicom  # slow to import, and most sets are PNG or JPEG

    # Only two numbers are asked for, so no value that a person typed is decoded. What pydicom dislikes about the rest
    # of the file it says by warnings, which could quote it; an import has a single thread, so the filter is safe here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"], force=True)
            width, height = int(found.Columns), int(found.Rows)
        except Exception:  # a parser may raise anything on a damaged file, and its size is then not known
            return None
    return (width, height) if 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE else None
