"""DICOM's grey arithmetic (PS3.3 C.11.1 and C.11.2): look-up tables and windows.  H W pixels.

Done here and not by pydicom's functions because those work in float64 with masks, six times the memory of a large
film, and want a parsed data set. The tests hold the two to one another.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.elements import Elements

_DESCRIPTOR, _DATA = 0x00283002, 0x00283006
LUT_TAGS = frozenset((_DESCRIPTOR, _DATA))

_THINNEST = 1e-6  # of a window; what is thinner divides to infinity in float32
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class LookUpTable:
    """Output values for inputs from ``first`` on; inputs outside take the value at the nearer end.

    Attributes:
        entries: (N,) float32, as stored.
        first: the input value that entry 0 is for.
        full: the largest value the entries may have.
    """

    entries: NDArray[np.float32]
    first: int
    full: float

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H, W) stored entries for (H, W) inputs, which are rounded to whole numbers."""
        places = np.rint(values - self.first)
        np.clip(places, 0, len(self.entries) - 1, out=places)
        return self.entries[places.astype(np.int32)]


def read_table(item: Elements | None, *, signed: bool) -> LookUpTable | None:
    """The table in an item of a modality or VOI LUT sequence.

    Args:
        item: the sequence's first item.
        signed: whether its input values may be negative.

    Returns:
        The table; None where there is none or its parts do not fit together.
    """
    descriptor, data = (item.values.get(tag, b"") for tag in (_DESCRIPTOR, _DATA)) if item else (b"", b"")
    if item is None or len(descriptor) < 6:
        return None
    count, first, bits = struct.unpack_from(item.order + ("HhH" if signed else "HHH"), descriptor)
    count = count or 65536
    packed = len(data) in (count, count + count % 2)  # 8-bit entries, one a byte
    if not packed and len(data) % 2:
        return None
    entries = np.frombuffer(data, dtype=np.uint8 if packed else np.dtype(item.order + "u2"), count=-1)[:count]
    if len(entries) < count or not 1 <= bits <= 16:
        return None
    # Some writers state fewer bits than their entries use; then the entries are right.
    return LookUpTable(entries.astype(np.float32), first, float(max((1 << bits) - 1, entries.max())))


def apply_window(values: NDArray[np.float32], center: float, width: float, function: str) -> NDArray[np.float32]:
    """Window in place.

    ``LINEAR`` counts whole values, so it has the half and the one in it that ``LINEAR_EXACT`` has not.

    Args:
        values: (H, W) after the modality step; overwritten.
        center: where the middle of the grey scale lies.
        width: at least 1 for ``LINEAR``, above 0 for the others; see ``is_window``.
        function: one of ``FUNCTIONS``.

    Returns:
        (H, W) 0 to 1, the same array.
    """
    if function == "SIGMOID":
        values -= center
        values *= -4.0 / width
        np.clip(values, -80.0, 80.0, out=values)  # exp(80) still is a float32
        np.exp(values, out=values)
        values += 1.0
        return np.reciprocal(values, out=values)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    if width == 0:
        values[...] = values > center
        return values
    values -= center
    values *= 1.0 / width
    values += 0.5
    return np.clip(values, 0.0, 1.0, out=values)


def is_window(width: float, function: str) -> bool:
    """Whether the standard allows a window of this width; ours is the floor where it states none."""
    return function in FUNCTIONS and width >= (1 if function == "LINEAR" else _THINNEST)
