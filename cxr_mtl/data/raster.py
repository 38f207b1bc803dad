"""PNG and JPEG to grey.

The container is walked here first: it gives the size before anything is decoded, finds a file that was cut short, and
leaves out every part that decoding does not need (text, colour profiles, thumbnails, camera data). So Pillow's
metadata parsers, which report through process-wide warnings, never run, and its limit on pixels is never touched.

H W pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from cxr_mtl.data.refuse import RESEND, check_size, refuse
from cxr_mtl.errors import ImageError

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

_PNG_PARTS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_END_OF_IMAGE, _SCAN, _COMMENT = b"\xff\xd9", 0xDA, 0xFE
_JPEG_DECODED = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive: what Pillow decodes
_JPEG_SIZES = _JPEG_DECODED | {0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7}
_JPEG_KEPT_APPLICATION = {0xE0, 0xEE}  # JFIF and Adobe say what the channels mean
_JPEG_BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_MAX_SCANS = 100  # of a progressive JPEG; usual ones have six to ten, hostile ones thousands

_SPREAD = 24  # of 255: what JPEG chroma and scanner tint make of grey stays under it
_MAX_COLOURED = 0.02  # of the pixels: room for a coloured marker or a line of text
_SHALLOW = 16384  # a 16-bit file whose brightest pixel is below it holds 10- to 14-bit data that was never scaled up


@dataclass(frozen=True, slots=True)
class Container:
    """What walking a file found.

    Attributes:
        width: as stored, before any turning.
        height: as stored.
        orientation: EXIF, 1 to 8.
        parts: the file without what decoding does not need.
    """

    width: int
    height: int
    orientation: int
    parts: bytes


def walk_png(data: bytes) -> Container:
    """Size, orientation and the parts to decode. Check sums are verified, so a damaged file is refused, not judged.

    Raises:
        ImageError: ``truncated``, ``corrupt``, ``too_large`` or ``too_small``.
    """
    at, kept, kind, orientation = 8, [data[:8]], b"", 1
    while kind != b"IEND":
        if at + 12 > len(data):
            raise _cut("PNG")
        (length,) = struct.unpack_from(">L", data, at)
        kind, stop = data[at + 4 : at + 8], at + 12 + length
        if (at == 8) != (kind == b"IHDR" and length == 13):
            raise _broken("PNG")
        if stop > len(data):
            raise _cut("PNG")
        if kind in _PNG_PARTS:
            if zlib.crc32(memoryview(data)[at + 4 : stop - 4]) != struct.unpack_from(">L", data, stop - 4)[0]:
                raise _broken("PNG")
            kept.append(data[at:stop])
            if kind == b"IHDR":  # at once: a header alone says too large, and nothing after it matters
                check_size(*struct.unpack_from(">LL", data, 16))
        elif kind == b"eXIf":
            orientation = _orientation(data[at + 8 : stop - 4])
        at = stop
    width, height = struct.unpack_from(">LL", data, 16)
    return Container(width, height, orientation, b"".join(kept))


def walk_jpeg(data: bytes) -> Container:
    """Size, orientation and the parts to decode.

    Raises:
        ImageError: ``truncated``, ``corrupt`` or ``unsupported_compression``.
    """
    kept, size, orientation, at = [data[:2]], None, 1, 2
    for marker, at, stop in _segments(data):
        if marker in _JPEG_SIZES:
            if marker not in _JPEG_DECODED or data[at + 4] != 8:
                what, hint = "is a lossless, arithmetic or 12-bit JPEG", "Save it as PNG or as a usual 8-bit JPEG."
                raise refuse("unsupported_compression", what, hint)
            if size is not None:
                raise _broken("JPEG")
            size = _jpeg_size(data[at + 4 : stop])
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _orientation(data[at + 10 : stop])
        if marker in _JPEG_KEPT_APPLICATION or not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
            kept.append(data[at:stop])
        at = stop
    end = data.rfind(_END_OF_IMAGE, at)
    if end < 0:
        raise _cut("JPEG")
    if size is None or data.count(b"\xff\xda", at) > _MAX_SCANS:
        raise _broken("JPEG")
    kept.append(data[at : end + 2])
    return Container(*size, orientation, b"".join(kept))


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG, JPEG-LS or JPEG 2000 stream states; None where it is no such stream with one grey.

    Raises:
        ImageError: ``truncated`` or ``corrupt``.
    """
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000, bare or in its box
    if at >= 0 and len(data) >= at + 42:
        right, bottom, left, top = struct.unpack_from(">LLLL", data, at + 8)
        (components,) = struct.unpack_from(">H", data, at + 40)
        return (right - left, bottom - top) if components == 1 else None
    if data[:3] == JPEG_MAGIC:
        for marker, start, stop in _segments(data):
            if marker in _JPEG_SIZES:
                return _jpeg_size(data[start + 4 : stop])
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each part of a JPEG, up to and with the header of its first scan."""
    at, marker = 2, 0
    while marker != _SCAN:
        while data[at : at + 2] == b"\xff\xff":  # padding
            at += 1
        if at + 4 > len(data):
            raise _cut("JPEG")
        marker = data[at + 1]
        if data[at] != 0xFF or marker == _END_OF_IMAGE[1]:
            raise _broken("JPEG")
        stop = at + 2 if marker in _JPEG_BARE else at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if stop > len(data):
            raise _cut("JPEG")
        yield marker, at, stop
        at = stop


def decode(container: Container, kind: str) -> tuple[NDArray[np.float32], list[str]]:
    """Grey pixels of a picture whose size was found acceptable.

    Args:
        container: from ``walk_png`` or ``walk_jpeg``.
        kind: ``png`` or ``jpeg``.

    Returns:
        (H, W) 0 to 1, turned upright as EXIF says, and notes on what was done.

    Raises:
        ImageError: ``truncated``, ``corrupt`` or ``colour``.
    """
    opener = PngImagePlugin.PngImageFile if kind == "png" else JpegImagePlugin.JpegImageFile
    try:
        with opener(io.BytesIO(container.parts)) as picture:
            picture.load()
            grey, notes = _grey(picture)
    except ImageError:
        raise
    except Exception as error:  # a decoder may raise anything on hostile bytes; one file must not end a batch
        raise _broken(kind.upper()) from error
    if container.orientation != 1:
        notes.append("turned upright as its EXIF orientation says; sizes and boxes are those of the upright picture")
        grey = _upright(grey, container.orientation)
    return grey, notes


def _grey(picture: Image.Image) -> tuple[NDArray[np.float32], list[str]]:
    if picture.mode in ("I;16", "I"):
        return _scale_16_bit(np.asarray(picture))
    if picture.mode in ("1", "L") and "transparency" not in picture.info:
        return _unit(np.asarray(picture.convert("L"))), []
    notes: list[str] = []
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        layers = picture.convert("RGBA")
        if layers.getchannel("A").getextrema() != (255, 255):
            layers = Image.alpha_composite(Image.new("RGBA", layers.size, (0, 0, 0, 255)), layers)
            notes.append("transparent parts read as black")
        picture = layers
    picture = picture.convert("RGB")
    coloured = _coloured(np.asarray(picture))
    if coloured > _MAX_COLOURED:
        raise refuse(
            "colour",
            f"is a colour picture: {coloured:.0%} of its pixels are coloured, a film has none",
            "Send the radiograph itself, in grey.",
        )
    if coloured > 0:
        notes.append(f"coloured marks ({coloured:.1%} of the pixels) read as grey")
    return _unit(np.asarray(picture.convert("L"))), notes


def _coloured(rgb: NDArray[np.uint8]) -> float:
    """Share of the pixels whose channels differ by more than grey's do."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return float(np.mean(spread > _SPREAD))


def _unit(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.multiply(grey, np.float32(1 / 255), dtype=np.float32)


def _scale_16_bit(values: NDArray[np.integer]) -> tuple[NDArray[np.float32], list[str]]:
    top, full, notes = int(values.max()), 65535, []
    if 0 < top < _SHALLOW:
        bits = max(8, top.bit_length())
        full = (1 << bits) - 1
        notes.append(f"16-bit file holding {bits}-bit values: scaled to their range")
    return np.multiply(values, np.float32(1 / full), dtype=np.float32), notes


def _upright(pixels: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Undo an EXIF orientation, 1 to 8; from 5 on the picture is stored lying on its side."""
    if orientation >= 5:
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _orientation(exif: bytes) -> int:
    """The orientation an EXIF block states; 1, upright, where it states none or is broken."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 14:
        return 1
    (first,) = struct.unpack_from(order + "L", exif, 4)
    if first + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, first)
    for at in range(first + 2, min(first + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, number, value = struct.unpack_from(order + "HHLH", exif, at)
        if tag == 0x0112 and kind == 3 and number == 1:
            return int(value) if 1 <= value <= 8 else 1
    return 1


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    """Width and height out of a JPEG frame header."""
    if len(frame) < 6:
        raise _broken("JPEG")
    _, height, width = struct.unpack_from(">BHH", frame)
    return width, height


def _cut(kind: str) -> ImageError:
    return refuse("truncated", f"is a {kind} file that ends too early", RESEND)


def _broken(kind: str) -> ImageError:
    return refuse("corrupt", f"is a damaged {kind} file", RESEND)
