"""Walk PNG, JPEG and what DICOM compresses pictures to, without decoding any of it.

Walking gives the size before anything is decoded, finds a file that was cut short, and leaves out every part that
decoding does not need (text, colour profiles, thumbnails, camera data). So Pillow's metadata parsers, which report
through process-wide warnings, never run, and its limit on pixels is never touched.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from cxr_mtl.data.refuse import RESEND, check_size, refuse
from cxr_mtl.errors import ImageError

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

_PNG_PARTS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
END_OF_IMAGE, _SCAN, _COMMENT = b"\xff\xd9", 0xDA, 0xFE
_JPEG_DECODED = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive: what Pillow decodes
_JPEG_SIZES = _JPEG_DECODED | {0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7}
_JPEG_KEPT_APPLICATION = {0xE0, 0xEE}  # JFIF and Adobe say what the channels mean
_JPEG_BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_MAX_SCANS = 100  # of a progressive JPEG; usual ones have six to ten, hostile ones thousands


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


@dataclass(frozen=True, slots=True)
class Codestream:
    """What the head of a compressed picture within DICOM states.

    Attributes:
        width: of the picture.
        height: of the picture.
        bits: of a value.
        lossless: a kind of JPEG that Pillow does not decode; False for JPEG 2000.
    """

    width: int
    height: int
    bits: int
    lossless: bool


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
            raise broken("PNG")
        if stop > len(data):
            raise _cut("PNG")
        if kind in _PNG_PARTS:
            if zlib.crc32(memoryview(data)[at + 4 : stop - 4]) != struct.unpack_from(">L", data, stop - 4)[0]:
                raise broken("PNG")
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
            if stop < at + 10:
                raise broken("JPEG")
            if marker not in _JPEG_DECODED or data[at + 4] != 8:
                what, hint = "is a lossless, arithmetic or 12-bit JPEG", "Save it as PNG or as a usual 8-bit JPEG."
                raise refuse("unsupported_compression", what, hint)
            if size is not None:
                raise broken("JPEG")
            size = _jpeg_size(data[at + 4 : stop])
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _orientation(data[at + 10 : stop])
        if marker in _JPEG_KEPT_APPLICATION or not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
            kept.append(data[at:stop])
        at = stop
    end = data.rfind(END_OF_IMAGE, at)
    if end < 0:
        raise _cut("JPEG")
    if size is None or data.count(b"\xff\xda", at) > _MAX_SCANS:
        raise broken("JPEG")
    kept.append(data[at : end + 2])
    return Container(*size, orientation, b"".join(kept))


def codestream_head(data: bytes) -> Codestream | None:
    """What a JPEG, JPEG-LS or JPEG 2000 stream states of itself; None where it is no such stream with one grey.

    Raises:
        ImageError: ``truncated`` or ``corrupt``.
    """
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000, bare or in its box
    if at >= 0 and len(data) >= at + 43:
        right, bottom, left, top = struct.unpack_from(">LLLL", data, at + 8)
        components, depth = struct.unpack_from(">HB", data, at + 40)
        return Codestream(right - left, bottom - top, (depth & 127) + 1, False) if components == 1 else None
    if data[:3] == JPEG_MAGIC:
        for marker, start, stop in _segments(data):
            if marker in _JPEG_SIZES:
                width, height = _jpeg_size(data[start + 4 : stop])
                bits, components = data[start + 4], data[start + 9]
                return Codestream(width, height, bits, marker not in _JPEG_DECODED) if components == 1 else None
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
        if data[at] != 0xFF or marker == END_OF_IMAGE[1]:
            raise broken("JPEG")
        stop = at + 2 if marker in _JPEG_BARE else at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if stop > len(data):
            raise _cut("JPEG")
        yield marker, at, stop
        at = stop


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
        raise broken("JPEG")
    _, height, width = struct.unpack_from(">BHH", frame)
    return width, height


def _cut(kind: str) -> ImageError:
    return refuse("truncated", f"is a {kind} file that ends too early", RESEND)


def broken(kind: str) -> ImageError:
    return refuse("corrupt", f"is a damaged {kind} file", RESEND)
