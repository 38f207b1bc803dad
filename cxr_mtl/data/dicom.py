"""DICOM to grey, in the standard's order: stored values, modality, window (VOI), then inversion.  H W pixels.

pydicom decodes the pixels. No tag that may say something of the patient is read, and none is quoted in a message.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import AllTransferSyntaxes

from cxr_mtl.data.elements import NATIVE, Elements, read_elements
from cxr_mtl.data.raster import codestream_size
from cxr_mtl.data.refuse import RESEND, check_size, refuse
from cxr_mtl.data.voi import LUT_TAGS, apply_window, is_window, read_table

SOP_CLASS, MODALITY, INTENT = 0x00080016, 0x00080060, 0x00080068
BODY_PART, VIEW = 0x00180015, 0x00185101
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011
BITS_ALLOCATED, BITS_STORED, HIGH_BIT, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
PADDING, PADDING_LIMIT = 0x00280120, 0x00280121
CENTER, WIDTH, INTERCEPT, SLOPE, VOI_FUNCTION = 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056
MODALITY_LUT, VOI_LUT = 0x00283000, 0x00283010
PRESENTATION_SHAPE = 0x20500020

_WANTED = (
    {SOP_CLASS, MODALITY, INTENT, BODY_PART, VIEW, SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, BITS_ALLOCATED}
    | {BITS_STORED, HIGH_BIT, SIGNED, PADDING, PADDING_LIMIT, CENTER, WIDTH, INTERCEPT, SLOPE, VOI_FUNCTION}
    | {PRESENTATION_SHAPE}
    | LUT_TAGS
)

_RLE = "1.2.840.10008.1.2.5"
_ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_RADIOGRAPHY = {"CR", "DX", "DR", "RG"}
_UNSTATED = {"", "OT", "SC"}
_OTHER_MODALITIES = {
    "CT": "a CT slice",
    "MR": "an MR slice",
    "US": "an ultrasound picture",
    "MG": "a mammogram",
    "XA": "an angiogram",
    "RF": "a fluoroscopy picture",
    "NM": "a scintigram",
    "PT": "a PET slice",
    "PX": "a panoramic dental film",
    "IO": "a dental film",
    "XC": "a photograph",
    "ES": "an endoscopy picture",
    "SM": "a microscope slide",
}
_ELSEWHERE = (
    "HEAD SKULL BRAIN FACE JAW MANDIBLE MAXILLA ZYGOMA SINUS ORBIT EYE NECK CSPINE LSPINE SSPINE SACRUM COCCYX PELVIS "
    "HIP ABDOMEN BREAST ARM UPPERARM LOWERARM HUMERUS ELBOW FOREARM WRIST HAND FINGER THUMB LEG UPPERLEG LOWERLEG "
    "THIGH FEMUR KNEE PATELLA CALF TIBIA ANKLE FOOT HEEL CALCANEUS TOE EXTREMITY"
)
_LATERAL = {"LL", "RL", "LATERAL", "LAT"}
_SYNTAXES = {str(syntax): syntax for syntax in AllTransferSyntaxes}  # making a UID of a strange one would warn
_PLUGINS = ("pylibjpeg", "pyjpegls", "pillow", "gdcm", "pydicom")  # in order of trust; gdcm writes to stderr by itself
_MAX_WIDTH = 4  # of a window, in ranges of the values it is for
_LOW, _HIGH = 0.5, 99.5  # percentiles of the values a film without a window is stretched over


def read_dicom(data: bytes) -> tuple[NDArray[np.float32], bool, list[str]]:
    """The film as a workstation would show it.

    Args:
        data: the file.

    Returns:
        (H, W) 0 to 1, bright is dense; whether it was turned round; notes on what was done.

    Raises:
        ImageError: with any code of ``refuse.STATUS`` but those of a path.
    """
    film = read_elements(data, _WANTED, {MODALITY_LUT, VOI_LUT})
    notes = _judge(film)
    stored = _stored_values(film)
    padding = _padding(film, stored)
    pixels, how = _window(film, _modality(film, stored), padding)
    notes += how
    inverted = film.text(PHOTOMETRIC) == "MONOCHROME1" or film.text(PRESENTATION_SHAPE) == "INVERSE"
    if inverted:  # after the window, which is stated for the values as they are stored
        np.subtract(1.0, pixels, out=pixels)
    if padding is not None:
        pixels[padding] = 0.0
    return pixels, inverted, notes


def _judge(film: Elements) -> list[str]:
    """Refuse what is no chest radiograph with one grey frame; notes on what is doubtful."""
    modality, part = film.text(MODALITY), "".join(filter(str.isalpha, film.text(BODY_PART)))
    if film.text(SOP_CLASS) == _ENCAPSULATED_PDF:
        raise refuse("no_pixels", "is a PDF document inside DICOM", "Send the film, not its report.")
    if modality not in _RADIOGRAPHY | _UNSTATED:
        what = _OTHER_MODALITIES.get(modality, "of another modality")
        raise refuse("not_radiography", f"is {what}, not a radiograph", "Send a CR or DX film of the chest.")
    if film.frame is None:
        raise refuse("no_pixels", "is a DICOM file without a picture", "Send the image object of the study.")
    if (film.number(FRAMES) or 1) > 1:
        raise refuse("multi_frame", "has more than one frame", "Send one frame as a file of its own.")
    if film.text(PHOTOMETRIC) not in ("", "MONOCHROME1", "MONOCHROME2") or (film.short(SAMPLES) or 1) != 1:
        raise refuse("colour", "is a colour DICOM picture; a film is grey", "Send the original, not a capture of it.")
    if part in _ELSEWHERE.split():
        raise refuse("not_chest", "is a film of another part of the body", "If its body part tag is wrong, correct it.")
    doubts = {
        "modality not stated; read as a radiograph": modality in _UNSTATED,
        "the body part stated is not the chest": bool(part) and not any(p in part for p in ("CHEST", "THORA", "LUNG")),
        "lateral view; the model is trained on frontal films": film.text(VIEW) in _LATERAL,
        "detector data for processing, not for presentation: the greys may be unlike a film's": (
            film.text(INTENT) == "FOR PROCESSING"
        ),
        "polarity not stated; read as bright is dense": not film.text(PHOTOMETRIC),
        "photometric interpretation and presentation shape contradict one another; read as inverted": (
            (film.text(PHOTOMETRIC), film.text(PRESENTATION_SHAPE))
            in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE"))
        ),
    }
    return [note for note, holds in doubts.items() if holds]


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
    options = {
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
    if film.syntax not in NATIVE:
        return _decompress(film.syntax, film.frame, options)
    needed = rows * columns * allocated // 8
    if len(film.frame) < needed:
        raise refuse("truncated", "has fewer pixels than it states", RESEND)
    values = _decode(film.syntax, film.frame[: needed + needed % 2], options | {"correct_unused_bits": False})
    if bits < allocated:  # by hand, as pydicom takes the high bit to be the last stored one
        values = np.right_shift(np.left_shift(values, allocated - 1 - high), allocated - bits)
    return values


def _decompress(syntax: str, frame: bytes, options: dict[str, Any]) -> NDArray[np.integer[Any]]:
    """Decode after a look at the compressed picture's own header: decoders take their memory by that, not by ours."""
    if syntax != _RLE and codestream_size(frame) != (options["columns"], options["rows"]):
        raise refuse("corrupt", "is a DICOM file whose compressed picture has another size than stated", RESEND)
    return _decode(syntax, encapsulate([frame], has_bot=False), options)


def _decode(syntax: str, source: bytes, options: dict[str, Any]) -> NDArray[np.integer[Any]]:
    """pydicom's decoder on nothing but numbers that were checked: it has nothing to warn of."""
    try:
        decoder = get_decoder(_SYNTAXES[syntax])
        plugin = "" if syntax in NATIVE else next(p for p in _PLUGINS if p in decoder.available_plugins)
    except (KeyError, NotImplementedError, StopIteration) as error:
        hint = "Save it uncompressed or as JPEG 2000, or pip install python-gdcm, which reads most kinds."
        message = "is compressed in a way that no installed decoder reads"
        raise refuse("unsupported_compression", message, hint) from error
    try:
        values, _ = decoder.as_array(source, index=0, validate=False, raw=True, decoding_plugin=plugin, **options)
    except BaseException as error:  # a decoder may raise anything on hostile bytes; one file must not end a batch
        # The RLE decoder is written in Rust; on a damaged stream it panics, and a panic is no Exception to Python.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise refuse("corrupt", "has pixels that cannot be decompressed", RESEND) from error
    return np.asarray(values)


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
    table = read_table(film.items.get(VOI_LUT), signed=bool(values.min() < 0))
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
