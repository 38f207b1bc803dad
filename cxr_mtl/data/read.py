"""The one door for pictures: a file or its bytes to a ``Radiograph``, or a refusal that says why.

What a file is, its content says, not its name. Nothing here is process-wide: no warning filter, no setting of Pillow or
pydicom is touched, so server workers and the demo's threads may call ``read_image`` at once. Memory stays under about
16 bytes a pixel, and no picture is decoded before its header was judged.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.container import JPEG_MAGIC, PNG_MAGIC, walk_jpeg, walk_png
from cxr_mtl.data.dicom import read_dicom
from cxr_mtl.data.elements import is_dicom
from cxr_mtl.data.raster import decode
from cxr_mtl.data.refuse import MAX_BYTES, RESEND, check_size, refuse
from cxr_mtl.errors import ImageError
from cxr_mtl.types import Radiograph

_FOREIGN = {
    b"GIF8": "a GIF picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"BM": "a BMP picture",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
}


def read_image(source: Path | bytes, *, name: str = "") -> Radiograph:
    """Read one film: DICOM, PNG or JPEG.

    A picture with an EXIF orientation is turned upright, as every browser and viewer shows it; its size and boxes are
    then those of the upright picture. Colour files are read where all their pixels are grey.

    Args:
        source: the file, or its bytes.
        name: what messages call it; the file's own name by default.

    Raises:
        ImageError: with a code and status of ``data.refuse.STATUS``; the message starts with the name.
        MemoryError: the picture does not fit into this machine's.
    """
    called = _called(source, name)
    try:
        data = _load(source) if isinstance(source, Path) else bytes(source)  # servers hand over bytearrays
        _check_bytes(len(data))
        kind = _kind(data)
        pixels, inverted, view, notes = read_dicom(data) if kind == "dicom" else _read_raster(data, kind)
    except ImageError as error:
        raise _named(called, error) from error
    except MemoryError:  # of this machine, which says nothing of the film
        raise
    except Exception as error:  # what nobody foresaw in hostile bytes: one file must not end a batch
        raise _named(called, refuse("corrupt", "is a damaged file", RESEND)) from error
    if pixels.min() == pixels.max():
        notes.append("the picture is blank")
    return Radiograph(pixels, kind, inverted, hashlib.sha256(data).hexdigest(), tuple(notes), view)


def read_frontal(source: Path | bytes, *, name: str = "") -> Radiograph:
    """Read one film that is to be judged: as ``read_image``, but a film that says it is a lateral view is refused.

    Training and evaluation may hold laterals, which their tables know of; an answer to somebody who sends one would
    be numbers of a model that was trained on frontal films.

    Args:
        source: the file, or its bytes.
        name: what messages call it.

    Raises:
        ImageError: as ``read_image``, or ``lateral``.
    """
    film = read_image(source, name=name)
    if film.view == "LATERAL":
        hint = "Send the frontal film (PA or AP); if its view position tag is wrong, correct it."
        error = refuse("lateral", "is a lateral view, and the model judges frontal films", hint)
        raise _named(_called(source, name), error)
    return film


def named(source: Path | bytes, error: ImageError, *, name: str = "") -> ImageError:
    """A refusal of a film that was read, its message beginning with the film's name as those of ``read_image`` do."""
    return _named(_called(source, name), error)


def _called(source: Path | bytes, name: str) -> str:
    """The film's name in messages."""
    given = PurePath(name.replace("\\", "/")).name  # a path may tell more than the file's name, and travels with logs
    return _printable(given or (source.name if isinstance(source, Path) else "") or "the picture")


def _named(called: str, error: ImageError) -> ImageError:
    return ImageError(f"{called} {error.message}.", code=error.code, hint=error.hint, status=error.status)


def _read_raster(data: bytes, kind: str) -> tuple[NDArray[np.float32], bool, str, list[str]]:
    container = walk_png(data) if kind == "png" else walk_jpeg(data)
    check_size(container.width, container.height)
    pixels, notes = decode(container, kind)
    return pixels, False, "UNKNOWN", notes


def _load(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a folder; or a pipe or device, which may never end
            raise refuse("unreadable", "is not a file", "Name the film itself.")
        _check_bytes(status.st_size)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise refuse("missing", "does not exist", "Check the path.") from error
    except (OSError, ValueError) as error:
        raise refuse("unreadable", "cannot be opened", "Check the path and its permissions.") from error


def _check_bytes(size: int) -> None:
    if size == 0:
        raise refuse("empty", "is empty", RESEND)
    if size > MAX_BYTES:
        limit = f"{MAX_BYTES // 1_000_000} MB"
        raise refuse("too_large", f"is {size // 1_000_000} MB, over the limit of {limit}", "Send a single film.")


def _kind(data: bytes) -> str:
    """``dicom``, ``png`` or ``jpeg``, by content. DICOM first: its free first 128 bytes may look like anything."""
    if is_dicom(data):
        return "dicom"
    if data.startswith(PNG_MAGIC):
        return "png"
    if data.startswith(JPEG_MAGIC):
        return "jpeg"
    if PNG_MAGIC.startswith(data) or JPEG_MAGIC.startswith(data):
        raise refuse("truncated", "ends after its first bytes", RESEND)
    raise refuse("unsupported", f"is {_foreign(data)}, not DICOM, PNG or JPEG", "Export the film as DICOM or PNG.")


def _foreign(data: bytes) -> str:
    """What a file that is not read seems to be."""
    for magic, what in _FOREIGN.items():
        if data.startswith(magic):
            return what
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "a WebP picture"
    if data[4:8] == b"ftyp":
        return "a HEIC or AVIF picture or a film clip"
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page (a download that failed?)"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:1024]):
        return "text"
    return "something unknown"


def _printable(name: str) -> str:
    """A name that stays on one line of a message or log."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= 80 else f"{shown[:60]}...{shown[-17:]}"
