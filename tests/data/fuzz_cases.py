"""Damaged films by number: ``case(n)`` gives the same bytes for the same n, so a failure is replayed by its number."""

from __future__ import annotations

import functools
import io
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
from dicom_files import film, lut, ramp, saved
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
GREY = Image.fromarray(ramp(0, 255, "u1"))
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_GDCM = {
    "extended": gdcm.TransferSyntax.JPEGExtendedProcess2_4,
    "lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "lossless14": gdcm.TransferSyntax.JPEGLosslessProcess14,
}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def png(values: NDArray[np.integer], bits: int, *, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A grey PNG of 1 to 16 bits as no library here writes it: interlaced, of few bits, or with further chunks."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    rows = []
    for x, y, right, down in passes:
        part = values[y::down, x::right]
        if bits == 16:
            packed = np.ascontiguousarray(part.astype(">u2")).view(np.uint8)
        else:
            high = (part.astype(np.uint8)[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1
            packed = np.packbits(high.reshape(len(part), -1), axis=1)
        rows += [b"\0" + row.tobytes() for row in packed if row.size]
    head = struct.pack(">LLBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, int(interlaced))
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def with_frame(data: Dataset, frame: bytes, fragments: int = 1) -> bytes:
    data.PixelData = encapsulate([frame], fragments_per_frame=fragments)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    return saved(data)


def by_gdcm(data: Dataset, kind: str) -> bytes:
    """Lossless and 12-bit JPEG, which only gdcm writes."""
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain.dcm", Path(folder) / "packed.dcm"
        plain.write_bytes(saved(data))
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(_GDCM[kind]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(packed))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return packed.read_bytes()


def compressed(data: Dataset, syntax: str, **options: object) -> bytes:
    data.compress(syntax, generate_instance_uid=False, **options)
    return saved(data)


@functools.cache
def files() -> dict[str, bytes]:
    """One good file of every kind that is read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    deep, two_bits = ramp(0, 65535, "u2"), ramp(0, 3, "u1")
    eight = film(ramp(0, 255, "u1"), 8, JPEGBaseline8Bit)
    bare = film(**WINDOW)
    del bare.file_meta
    unpacked = io.BytesIO()
    bare.save_as(unpacked, implicit_vr=True, little_endian=True)
    pngs = {mode: encoded(GREY.convert(mode), "png") for mode in ("1", "L", "LA", "RGB", "RGBA", "P")}
    jpegs = {mode: encoded(GREY.convert(mode), "jpeg") for mode in ("L", "RGB", "CMYK")}
    many = {f"png {mode}": data for mode, data in pngs.items()} | {f"jpeg {mode}": data for mode, data in jpegs.items()}
    curve = np.linspace(0, 1023, 4096).astype("u2")
    return many | {
        "png 16": png(deep, 16),
        "png 16 interlaced": png(deep, 16, interlaced=True),
        "png 2 interlaced": png(two_bits, 2, interlaced=True),
        "png 4": png(ramp(0, 15, "u1"), 4),
        "png see-through": encoded(GREY.convert("P"), "png", transparency=b"\xff\x80"),
        "png turned": encoded(GREY, "png", exif=exif),
        "jpeg progressive": encoded(GREY.convert("RGB"), "jpeg", progressive=True),
        "jpeg turned": encoded(GREY, "jpeg", exif=exif, restart_marker_blocks=2),
        "dicom implicit": saved(film(syntax=ImplicitVRLittleEndian, **WINDOW)),
        "dicom explicit": saved(film(**WINDOW, BodyPartExamined="CHEST", ViewPosition="PA")),
        "dicom big": saved(film(syntax=ExplicitVRBigEndian, **WINDOW)),
        "dicom deflated": saved(film(syntax=DeflatedExplicitVRLittleEndian, **WINDOW)),
        "dicom bare": unpacked.getvalue(),
        "dicom signed": saved(film(ramp(-2048, 2047, "i2"), RescaleSlope=2, RescaleIntercept=-5, PixelPaddingValue=-9)),
        "dicom tables": saved(
            film(ModalityLUTSequence=lut(curve, 0, 16), VOILUTSequence=lut(np.arange(1024, dtype="u2"), 0, 10))
        ),
        "dicom rle": compressed(film(**WINDOW), RLELossless),
        "dicom j2k": compressed(film(**WINDOW), JPEG2000Lossless),
        "dicom j2k lossy": compressed(film(**WINDOW), JPEG2000, j2k_cr=[10]),
        "dicom jls": compressed(film(**WINDOW), JPEGLSLossless),
        "dicom jls near": compressed(film(**WINDOW), JPEGLSNearLossless, jls_error=3),
        "dicom jpeg": with_frame(eight, encoded(GREY, "jpeg"), fragments=2),
        **{f"dicom {kind}": by_gdcm(film(**WINDOW), kind) for kind in _GDCM},
    }  # fmt: skip


def _place(rng: Generator, data: bytes) -> int:
    """Somewhere, more often near the start, the end, or where compressed pixels begin."""
    at = int(rng.integers(len(data)))
    pick = rng.random()
    if pick < 0.25:
        return at % min(len(data), 256)
    if pick < 0.4:
        return len(data) - 1 - at % min(len(data), 64)
    start = max(data.rfind(mark) for mark in (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xe0\x7f\x10\0", b"IDAT"))
    return min(start + at % 80, len(data) - 1) if pick < 0.6 and start >= 0 else at


def _cut(rng: Generator, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _flip(rng: Generator, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        out[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _scribble(rng: Generator, data: bytes) -> bytes:
    at, length = _place(rng, data), int(rng.integers(1, 40))
    return data[:at] + rng.bytes(length) + data[at + length * int(rng.integers(2)) :]


def _extreme(rng: Generator, data: bytes) -> bytes:
    """Numbers that lengths and sizes break at, in either byte order."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = _place(rng, data)
        value = int(rng.choice([0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 9000, 65500]))
        form = str(rng.choice(["<H", ">H", "<L", ">L"]))
        packed = struct.pack(form, value & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
        out[at : at + len(packed)] = packed
    return bytes(out)


def _swap(rng: Generator, data: bytes) -> bytes:
    a, b, c = sorted(_place(rng, data) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _repeat(rng: Generator, data: bytes) -> bytes:
    a, b = sorted(_place(rng, data) for _ in range(2))
    return data[:b] + data[a:b] * int(rng.choice([1, 2, 50])) + data[b:]


def _drop(rng: Generator, data: bytes) -> bytes:
    a = _place(rng, data)
    return data[:a] + data[a + int(rng.integers(1, 60)) :]


def _splice(rng: Generator, data: bytes) -> bytes:
    other = list(files().values())[int(rng.integers(len(files())))]
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _noise(rng: Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(0, 140))] + rng.bytes(int(rng.integers(1, 3000)))


def _mended(rng: Generator, data: bytes) -> bytes:
    """A PNG damaged, shuffled or stated anew chunk by chunk, with right check sums: the damage reaches the decoder."""
    if not data.startswith(b"\x89PNG"):
        return _flip(rng, _flip(rng, data))
    parts, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">L", data, at)
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    which = int(rng.integers(len(parts)))
    kind, body = parts[which]
    if kind == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(_flip(rng, zlib.decompress(body))[: int(rng.integers(1, 4000))])
    elif body:
        body = [_flip, _extreme, _scribble, _cut][int(rng.integers(4))](rng, body)
    parts[which] = (kind, body)
    if rng.random() < 0.2:
        parts.insert(int(rng.integers(len(parts))), parts[int(rng.integers(len(parts)))])
    return data[:8] + b"".join(chunk(*part) for part in parts)


def _tags(rng: Generator, data: bytes) -> bytes:
    """An element of a DICOM file's picture description given another number, type, length or value."""
    element = b"\x28\0" + bytes([int(rng.choice([0x02, 0x04, 0x08, 0x10, 0x11, 0x34])), 0])
    at = data.find(element) if rng.random() < 0.5 else data.find(b"\x28\0", int(rng.integers(len(data) // 3 + 1)))
    if data[128:132] != b"DICM" or at < 0:
        return _extreme(rng, data)
    out = bytearray(data)
    at += int(rng.choice([2, 4, 6, 8, 8, 8]))
    usual = struct.pack("<H", int(rng.choice([0, 1, 2, 8, 12, 16, 32, 41, 65535])))
    out[at : at + 2] = rng.bytes(2) if rng.random() < 0.5 else usual
    return bytes(out)


MUTATIONS: tuple[Callable[[Generator, bytes], bytes], ...] = (
    _cut, _flip, _flip, _scribble, _extreme, _extreme, _swap, _repeat, _drop, _splice, _noise, _mended, _mended, _tags,
)  # fmt: skip
_SLOW = ("dicom extended", "dicom lossless", "dicom lossless14")  # a process each: fewer of them


def case(number: int) -> tuple[str, bytes]:
    """What was done, and the damaged file."""
    rng = np.random.default_rng(number)
    kinds = [kind for kind in files() if kind not in _SLOW]
    kind = _SLOW[number % len(_SLOW)] if number % 25 == 0 else kinds[int(rng.integers(len(kinds)))]
    mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    return f"{kind}, {mutation.__name__.strip('_')}", mutation(rng, files()[kind])
