"""Compressed frames of DICOM films to stored values.  H W pixels.

pydicom's plugins decode; fuzzing chose which. They are called by themselves where pydicom's own wrapper would log every
refusal with a traceback. Decoders believe what a compressed picture says of itself, so that is held against the film's
description first.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import decode_pixel_data as decode_jpeg_2000
from PIL import JpegImagePlugin

from cxr_mtl.data import gdcm_child
from cxr_mtl.data.container import END_OF_IMAGE, JPEG_MAGIC, Codestream, codestream_head
from cxr_mtl.data.refuse import RESEND, refuse
from cxr_mtl.errors import ImageError

RUN_LENGTH = "1.2.840.10008.1.2.5"
_JPEG = frozenset(f"1.2.840.10008.1.2.4.{kind}" for kind in (50, 51, 57, 70))
_JPEG_LS = frozenset(f"1.2.840.10008.1.2.4.{kind}" for kind in (80, 81))
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{kind}" for kind in (90, 91, 201, 202, 203))
_GDCM = Path(gdcm_child.__file__)
_SECONDS = 120.0  # for gdcm, which takes one for a large film


def decompress(syntax: str, frame: bytes, options: dict[str, Any]) -> NDArray[np.integer[Any]]:
    """(H, W) stored values.

    Args:
        syntax: transfer syntax UID, none of ``elements.NATIVE`` and not run-length coded.
        frame: the fragments, joined.
        options: of pydicom's decoders: rows, columns, pixel_representation.

    Raises:
        ImageError: ``corrupt``, ``truncated`` or ``unsupported_compression``.
        MemoryError: the picture does not fit into this machine's.
    """
    if syntax not in _JPEG | _JPEG_LS | _JPEG_2000:
        raise _no_decoder()
    head = codestream_head(frame)
    if head is None or (head.width, head.height) != (options["columns"], options["rows"]):
        raise refuse("corrupt", "is a DICOM file whose compressed picture has another size than stated", RESEND)
    if syntax in _JPEG and head.bits > 8 and not head.lossless:
        head = replace(head, bits=12)  # the only other depth that lossy JPEG has; gdcm writes 16 there
    if frame.startswith(JPEG_MAGIC) and END_OF_IMAGE not in frame:
        # Must not reach the decoder of JPEG-LS, which then counts through 2**32 bytes that are not there.
        raise refuse("truncated", "has a compressed picture that ends too early", RESEND)
    try:
        values = _raw_values(syntax, frame, head, options)
    except (ImageError, MemoryError):  # memory of this machine, which says nothing of the film
        raise
    except Exception as error:  # a decoder may raise anything on hostile bytes; one file must not end a batch
        raise _undecodable() from error
    return _with_sign(values, head, options)


def _raw_values(syntax: str, frame: bytes, head: Codestream, options: dict[str, Any]) -> bytes | bytearray:
    """What the decoder gives, row after row: one, two or four bytes a value, by the stream's depth."""
    if syntax in _JPEG_2000:
        return bytes(decode_jpeg_2000(frame, version=2))
    if syntax in _JPEG_LS:
        return bytes(jpeg_ls.decode_pixel_data(frame)[0])
    if head.bits > 8 or head.lossless:
        return _decode_apart(syntax, frame, head, options)
    with JpegImagePlugin.JpegImageFile(io.BytesIO(frame)) as picture:
        return picture.tobytes()


def _with_sign(values: bytes | bytearray, head: Codestream, options: dict[str, Any]) -> NDArray[np.integer[Any]]:
    """(H, W) the stream's bits as the film means them, signed or not, whatever lies above them."""
    size = next((size for size in (1, 2, 4) if head.bits <= 8 * size), 0)
    if not size or len(values) != options["rows"] * options["columns"] * size:
        raise _undecodable()
    kind = np.dtype(f"<{'i' if options['pixel_representation'] else 'u'}{size}")
    grey = np.frombuffer(values, kind).reshape(options["rows"], options["columns"])
    spare = 8 * size - head.bits
    return np.right_shift(np.left_shift(grey, spare), spare) if spare else grey


def _decode_apart(syntax: str, frame: bytes, head: Codestream, options: dict[str, Any]) -> bytes:
    """Raw values by gdcm in a process of its own."""
    allocated = 8 if head.bits <= 8 else 16
    numbers = (head.height, head.width, allocated, head.bits, options["pixel_representation"])
    command = [sys.executable, "-P", str(_GDCM), syntax, *map(str, numbers)]
    try:
        ended = subprocess.run(command, input=frame, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _undecodable() from error
    if ended.returncode == gdcm_child.NO_DECODER:
        raise _no_decoder()
    if ended.returncode != 0:
        raise _undecodable()
    return ended.stdout


def unpack_runs(frame: bytes, planes: int, size: int) -> bytes:
    """A run-length coded frame as the uncompressed one it stands for, little endian.

    Done here, in the few lines that it takes: pylibjpeg's decoder panics, with noise, on lengths that do not fit, and
    pydicom's unpacks whatever a segment states before it looks at the size.

    Args:
        frame: the fragments, joined.
        planes: bytes of a value; each is coded by itself, the highest first.
        size: values.

    Raises:
        ImageError: ``corrupt`` or ``truncated``.
    """
    if len(frame) < 64:
        raise refuse("truncated", "has a compressed picture that ends too early", RESEND)
    count, *starts = struct.unpack_from("<16L", frame)
    if count != planes or starts[0] != 64:
        raise _undecodable()
    values = np.empty((size, planes), np.uint8)
    for plane, (start, end) in enumerate(zip(starts[:planes], [*starts[1:planes], len(frame)], strict=True)):
        values[:, planes - 1 - plane] = np.frombuffer(_unpack_segment(frame[start:end], size), np.uint8)
    return values.tobytes()


def _unpack_segment(runs: bytes, size: int) -> bytearray:
    """As many bytes as asked for; what comes after them is padding."""
    out, at = bytearray(), 0
    while len(out) < size and at + 1 < len(runs):
        head = runs[at]
        if head < 128:  # so many bytes and one more follow as they are
            out += runs[at + 1 : at + 2 + head]
            at += head + 2
        elif head > 128:  # the next byte, over and over
            out += runs[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
    if len(out) < size:
        raise _undecodable()
    del out[size:]
    return out


def _no_decoder() -> ImageError:
    hint = "Save it uncompressed or as JPEG 2000, or reinstall cxr-mtl with its dependencies."
    return refuse("unsupported_compression", "is compressed in a way that no installed decoder reads", hint)


def _undecodable() -> ImageError:
    return refuse("corrupt", "has pixels that cannot be decompressed", RESEND)
