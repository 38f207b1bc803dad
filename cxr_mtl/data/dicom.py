"""DICOM to grey, in the standard's order: stored values, modality, window (VOI), presentation, inversion.  H W pixels.

pydicom decodes the pixels. No tag that may say something of the patient is read, and none is quoted in a message.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder

from cxr_mtl.data.codecs import RUN_LENGTH, decompress, unpack_runs
from cxr_mtl.data.elements import EXPLICIT_LITTLE, NATIVE, Elements, read_elements
from cxr_mtl.data.examination import (
    EXAMINATION_SEQUENCES,
    EXAMINATION_TAGS,
    PHOTOMETRIC,
    PRESENTATION_SHAPE,
    judge,
    view_of,
)
from cxr_mtl.data.refuse import RESEND, check_size, refuse
from cxr_mtl.data.voi import LUT_TAGS, apply_window, is_window, read_table

ROWS, COLUMNS = 0x00280010, 0x00280011
BITS_ALLOCATED, BITS_STORED, HIGH_BIT, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
PADDING, PADDING_LIMIT = 0x00280120, 0x00280121
CENTER, WIDTH, INTERCEPT, SLOPE, VOI_FUNCTION = 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056
MODALITY_LUT, VOI_LUT, PRESENTATION_LUT = 0x00283000, 0x00283010, 0x20500010

_WANTED = (
    {ROWS, COLUMNS, BITS_ALLOCATED, BITS_STORED, HIGH_BIT, SIGNED, PADDING, PADDING_LIMIT}
    | {CENTER, WIDTH, INTERCEPT, SLOPE, VOI_FUNCTION}
    | EXAMINATION_TAGS
    | LUT_TAGS
)
_SEQUENCES = {MODALITY_LUT, VOI_LUT, PRESENTATION_LUT} | EXAMINATION_SEQUENCES

_MAX_WIDTH = 4  # of a window, in ranges of the values it is for
_LOW, _HIGH = 0.5, 99.5  # percentiles of the values a film without a window is stretched over


def read_dicom(data: bytes) -> tuple[NDArray[np.float32], bool, str, list[str]]:
    """The film as a workstation would show it.

    Args:
        data: the file.

    Returns:
        (H, W) 0 to 1, bright is dense; whether it was turned round; its view; notes on what was done.

    Raises:
        ImageError: with any code of ``refuse.STATUS`` but those of a path and ``lateral``.
    """
    film = read_elements(data, _WANTED, _SEQUENCES)
    notes = judge(film)
    stored = _stored_values(film)
    padding = _padding(film, stored)
    pixels, how = _window(film, _modality(film, stored), padding)
    pixels, inverted, turned = _present(film, pixels)
    if padding is not None:
        pixels[padding] = 0.0
    return pixels, inverted, view_of(film), notes + how + turned


def _present(film: Elements, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool, list[str]]:
    """(H, W) bright is dense; whether that took an inversion; notes. After the window, which is for stored values."""
    table = read_table(film.items.get(PRESENTATION_LUT), signed=False)
    inverted = film.text(PHOTOMETRIC) == "MONOCHROME1" or film.text(PRESENTATION_SHAPE) == "INVERSE"
    notes = []
    if table is not None:
        last = len(table.entries) - 1
        pixels = table.apply(pixels * np.float32(last) + np.float32(table.first)) / np.float32(table.full)
        notes.append("the film's own presentation table applied")
        if table.entries[0] > table.entries[-1]:  # it turns the greys round by itself
            return pixels, True, notes
    if inverted:
        np.subtract(1.0, pixels, out=pixels)
    return pixels, inverted, notes


def _stored_values(film: Elements) -> NDArray[np.integer[Any]]:
    """(H, W) what the file stores, decompressed, with unused bits cleared and the sign right."""
    rows, columns, allocated = film.short(ROWS), film.short(COLUMNS), film.short(BITS_ALLOCATED)
    if rows is None or columns is None or film.frame is None:
        raise refuse("corrupt", "is a DICOM file that does not state its size", RESEND)
    check_size(columns, rows)
    if allocated not in (8, 16, 32):
        raise refuse("unsupported", "has neither 8, 16 nor 32 bits a pixel", "Send the original film.")
    bits, signed = film.short(BITS_STORED) or allocated, film.short(SIGNED) or 0
    high = film.short(HIGH_BIT)
    high = bits - 1 if high is None else high
    if not (bits - 1 <= high < allocated and signed in (0, 1)):
        raise refuse("corrupt", "is a DICOM file whose pixel description contradicts itself", RESEND)
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "pixel_representation": signed,
        "bits_allocated": allocated,
        "bits_stored": bits,
        "pixel_keyword": "PixelData",
        "pixel_vr": "OW" if film.wide else "OB",
    }
    syntax, frame = film.syntax, film.frame
    if syntax == RUN_LENGTH:
        syntax, frame = EXPLICIT_LITTLE, unpack_runs(frame, allocated // 8, rows * columns)
    if syntax not in NATIVE:
        return decompress(syntax, frame, options)
    needed = rows * columns * allocated // 8
    if len(frame) < needed:
        raise refuse("truncated", "has fewer pixels than it states", RESEND)
    frame = frame[:needed] + b"\0" * (needed % 2)
    unchecked: dict[str, Any] = {"index": 0, "validate": False, "raw": True, "correct_unused_bits": False}
    values = get_decoder(syntax).as_array(frame, **unchecked, **options)[0]
    if bits < allocated:  # by hand, as pydicom takes the high bit to be the last stored one
        values = np.right_shift(np.left_shift(values, allocated - 1 - high), allocated - bits)
    return values


def _padding(film: Elements, stored: NDArray[np.integer[Any]]) -> NDArray[np.bool_] | None:
    """(H, W) where the film says that there is no film; None where it does not say so anywhere."""
    signed = film.short(SIGNED) == 1
    low, high = film.short(PADDING, signed=signed), film.short(PADDING_LIMIT, signed=signed)
    if low is None:
        return None
    high = low if high is None else high
    where = (stored >= min(low, high)) & (stored <= max(low, high))
    return where if where.any() and not where.all() else None


def _modality(film: Elements, stored: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    values = stored.astype(np.float32)
    table = read_table(film.items.get(MODALITY_LUT), signed=film.short(SIGNED) == 1)
    if table is not None:
        return table.apply(values)
    slope, intercept = film.number(SLOPE), film.number(INTERCEPT)
    if slope:
        values *= slope
        values += intercept or 0.0
    return values


def _window(
    film: Elements, values: NDArray[np.float32], padding: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], list[str]]:
    """(H, W) 0 to 1 by the film's look-up table, else its first window, else the range of its values."""
    table = read_table(film.items.get(VOI_LUT), signed=_possible(film)[0] < 0)
    if table is not None:
        return table.apply(values) / np.float32(table.full), ["the film's own look-up table applied"]
    center, width, function = film.number(CENTER), film.number(WIDTH), film.text(VOI_FUNCTION) or "LINEAR"
    if center is None or width is None:
        return _stretch(film, values, padding)
    low, high = _possible(film)
    misses = values.max() <= center - width / 2 or values.min() >= center + width / 2
    too_wide = width > _MAX_WIDTH * (high - low)  # such as a 12-bit window left on an 8-bit copy: all but black
    if not is_window(width, function) or too_wide or (misses and values.min() < values.max()):
        pixels, notes = _stretch(film, values, padding)
        return pixels, ["the film's window does not fit its values and was not used", *notes]
    return apply_window(values, center, width, function), [f"window {center:g} wide {width:g} ({function.lower()})"]


def _stretch(
    film: Elements, values: NDArray[np.float32], padding: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], list[str]]:
    """(H, W) 0 to 1 without a window: 8 bits are ready for a screen, more are not and are stretched."""
    if (film.short(BITS_STORED) or film.short(BITS_ALLOCATED) or 8) <= 8:
        low, high = _possible(film)
        note = "no window used: full range of the stored bits"
    else:
        step = max(1, math.isqrt(values.size // 1_000_000))  # a million values tell a percentile as well as all do
        sample = values[::step, ::step]
        sample = sample if padding is None else sample[~padding[::step, ::step]]
        low, high = np.percentile(sample if sample.size else values, (_LOW, _HIGH)).tolist()
        note = f"no window used: stretched from the {_LOW:g} to the {_HIGH:g} percentile of the values"
    return apply_window(values, (low + high) / 2, max(high - low, 1e-6), "LINEAR_EXACT"), [note]


def _possible(film: Elements) -> tuple[float, float]:
    """Least and greatest value that the film's bits can hold, after the modality step."""
    bits = film.short(BITS_STORED) or film.short(BITS_ALLOCATED) or 8
    lowest = -(1 << (bits - 1)) if film.short(SIGNED) == 1 else 0
    ends = _modality(film, np.array([[lowest, lowest + (1 << bits) - 1]]))
    return float(ends.min()), float(ends.max())
