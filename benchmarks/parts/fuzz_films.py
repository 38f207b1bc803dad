"""Films to break a reader with: whole ones, damaged at random, and bombs that are small to send and large to open."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

LARGEST = 2_000_000  # bytes of a real film that is damaged: many small ones find more than a few large ones
SIDE = 20_000  # of a bomb's picture


def seeds(folder: Path | None, count: int, rng: np.random.Generator) -> list[bytes]:
    """Whole films to begin with: drawn ones of each kind, and up to ``count`` of a folder."""
    grey = np.kron(rng.integers(0, 255, (16, 20), np.uint8), np.ones((8, 8), np.uint8))
    drawn = [picture(grey, "PNG"), picture(grey, "JPEG", quality=90), picture(grey, "JPEG", progressive=True)]
    drawn += [picture(grey.astype(np.uint16) * 257, "PNG"), picture(np.stack([grey] * 3, -1), "PNG"), dicom(grey)]
    drawn += [dicom(grey, ExplicitVRLittleEndian, "MONOCHROME1"), dicom(grey, DeflatedExplicitVRLittleEndian)]
    drawn += [dicom(grey, JPEGBaseline8Bit, frame=drawn[1]), dicom(grey, RLELossless, frame=runs(grey.tobytes()))]
    if folder is None:
        return drawn
    there = [path for path in sorted(folder.rglob("*")) if path.is_file() and 1000 < path.stat().st_size < LARGEST]
    films = [path for path in there if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".dcm")]
    chosen = rng.choice(len(films), min(count, len(films)), replace=False) if films else []
    return drawn + [films[i].read_bytes() for i in chosen]


def mutate(films: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """One of them, damaged once to three times: flipped, cut, doubled, spliced, numbers made huge."""
    data = bytearray(films[rng.integers(len(films))])
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        kind, at = rng.integers(7), int(rng.integers(len(data)))
        head = int(rng.integers(min(len(data), 600)))  # where sizes and kinds are told
        if kind == 0:
            for place in rng.integers(len(data), size=int(rng.integers(1, 30))):
                data[place] ^= int(rng.integers(1, 256))
        elif kind == 1:
            data[head] = int(rng.integers(256))
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            other = films[rng.integers(len(films))]
            data = data[:at] + other[int(rng.integers(len(other))) :]
        elif kind == 4:
            data[head : head + 4] = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f")[at % 4]
        elif kind == 5:
            data[at:at] = data[at : at + int(rng.integers(1, 2000))] * int(rng.integers(1, 5))
        else:
            del data[at : at + int(rng.integers(1, 500))]
    return bytes(data)


def bombs() -> dict[str, bytes]:
    """What each is called, and its bytes. A reader must refuse, or read in the memory that its limits allow."""
    blank, grey = bytes(30_000_000), np.zeros((64, 64), np.uint8)
    whole = picture(grey, "PNG")
    text, profile = b"Comment\0\0" + zlib.compress(blank), b"icc\0\0" + zlib.compress(blank)
    scans = picture(grey, "JPEG", progressive=True)
    scan = scans[scans.rindex(b"\xff\xda") : -2]
    deep = Dataset()
    for _ in range(100):
        outer = Dataset()
        outer.ReferencedImageSequence = Items([deep])
        deep = outer
    nested = b"".join(
        struct.pack("<HH2sHLHHL", 8, 0x1140, b"SQ", 0, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1) for _ in range(10_000)
    )
    plain = dicom(grey)
    return {
        "PNG of 20,000 x 20,000 pixels": png_of(SIDE, SIDE, 8, 0, rows=b""),
        "PNG of 9,300 x 9,300 pixels, all one": png_of(9_300, 9_300, 8, 0),
        "PNG of 4,000 x 4,000 pixels, 16 bits and colours": png_of(4_000, 4_000, 16, 2),
        "PNG of 6,000 x 6,000 pixels, interlaced": png_of(6_000, 6_000, 8, 0, interlaced=True),
        "PNG of 2**31 pixels a side": png_of(2**31 - 1, 2**31 - 1, 8, 0, rows=b""),
        "PNG with 30 MB of text": with_chunk(whole, b"zTXt", text),
        "PNG with a colour profile of 30 MB": with_chunk(whole, b"iCCP", profile),
        "PNG with 100,000 chunks": with_chunk(whole, b"tEXt", b"a\0b", 100_000),
        "PNG that says it moves": with_chunk(whole, b"acTL", struct.pack(">LL", 2**31 - 1, 0)),
        "JPEG of 2,000 scans": scans[:-2] + scan * 2_000 + scans[-2:],
        "JPEG of 65,500 x 65,500 pixels": jpeg_of(65_500, 65_500),
        "DICOM, 200 MB deflated": deflated(bytes(220_000_000)),
        "DICOM, sequences 10,000 deep": plain[:132] + plain[132 : plain.index(b"\x08\x00\x16\x00")] + nested,
        "DICOM, sequences 100 deep": dicom(grey, extra=deep),
        "DICOM of 60,000 frames": dicom(grey, frames=60_000),
        "DICOM of 65,535 x 65,535 pixels": dicom(grey, rows=65_535, columns=65_535),
        "DICOM, a JPEG of another size": dicom(grey, JPEGBaseline8Bit, frame=jpeg_of(65_500, 65_500)),
        "DICOM, runs of another size": dicom(grey, RLELossless, frame=runs(bytes(50_000_000))),
        "DICOM, a length past its end": plain[:-4096].replace(b"OB\0\0", b"OB\0\0", 1)[:-4] + b"\xff\xff\xff\x7f",
        "DICOM of 9,300 x 9,300 pixels, as JPEG": dicom(
            grey, JPEGBaseline8Bit, rows=9_300, columns=9_300, frame=picture(np.zeros((9_300, 9_300), np.uint8), "JPEG")
        ),
    }


def picture(pixels: np.ndarray[tuple[int, ...], np.dtype[np.generic]], kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def png_of(
    width: int, height: int, bits: int, colour: int, *, interlaced: bool = False, rows: bytes | None = None
) -> bytes:
    """A PNG whose pixels are all black, as small as zlib makes them."""
    packer, parts = zlib.compressobj(1), []
    if rows is None:
        row = bytes(1 + width * bits // 8 * (3 if colour else 1))
        parts = [packer.compress(row) for _ in range(height + (height if interlaced else 0))]
    body = b"".join([*parts, packer.flush()])
    header = struct.pack(">LLBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def with_chunk(png: bytes, kind: bytes, body: bytes, times: int = 1) -> bytes:
    return png[:33] + chunk(kind, body) * times + png[33:]


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header promises another size than it has."""
    data = bytearray(picture(np.zeros((64, 64), np.uint8), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def runs(values: bytes) -> bytes:
    """Run-length coded as DICOM does it, one segment; equal bytes only are made short."""
    if values.count(values[:1]) == len(values):
        coded = bytes([129]) + values[:1]
        coded *= len(values) // 128
    else:
        parts = [values[i : i + 128] for i in range(0, len(values), 128)]
        coded = b"".join(bytes([len(part) - 1]) + part for part in parts)
    return struct.pack("<LL", 1, 64) + bytes(56) + coded + b"\0" * (len(coded) % 2)


def dicom(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    syntax: UID = ExplicitVRLittleEndian,
    photometric: str = "MONOCHROME2",
    *,
    frame: bytes | None = None,
    frames: int | None = None,
    rows: int | None = None,
    columns: int | None = None,
    extra: Dataset | None = None,
) -> bytes:
    """A chest film; ``frame`` is a compressed picture, the sizes what the header says whatever the pixels are."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = DigitalXRayImageStorageForPresentation, syntax
    meta.MediaStorageSOPInstanceUID = generate_uid()
    film = FileDataset("", {} if extra is None else extra, file_meta=meta, preamble=bytes(128))
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    film.PatientName, film.Modality, film.BodyPartExamined = "Doe^Jane", "DX", "CHEST"
    film.Rows, film.Columns, film.SamplesPerPixel = rows or pixels.shape[0], columns or pixels.shape[1], 1
    film.PhotometricInterpretation, film.PixelRepresentation = photometric, 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 8, 8, 7
    if frames is not None:
        film.NumberOfFrames = frames
    film.PixelData = pixels.tobytes() if frame is None else encapsulate([frame])
    film["PixelData"].VR = "OB"
    film["PixelData"].is_undefined_length = frame is not None
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, film)
    return buffer.getvalue()


def deflated(body: bytes) -> bytes:
    """A deflated DICOM file whose one private element is ``body``."""
    whole = dicom(np.zeros((64, 64), np.uint8), DeflatedExplicitVRLittleEndian)
    meta = whole.index(DeflatedExplicitVRLittleEndian.encode()) + len(DeflatedExplicitVRLittleEndian)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    element = struct.pack("<HH2sHL", 9, 0x1001, b"OB", 0, len(body)) + body
    return whole[:meta] + packer.compress(element) + packer.flush()
