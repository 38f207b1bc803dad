"""How much memory reading takes, measured as the peak of a process of its own; and bombs, which take next to none."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_files import film, saved
from fuzz_cases import by_gdcm, chunk, compressed, encoded, png
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from cxr_mtl.data.read import read_image

REPOSITORY = Path(__file__).parents[2]
SIDE = 1800
BYTES_A_PIXEL = 16  # the module's promise of 14, and the allocator's slack

MEASURE = """
import re, resource, sys
from pathlib import Path
from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError
data = open(sys.argv[1], "rb").read()
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])  # ru_maxrss is inherited
before = peak()
try:
    said = str(read_image(data).pixels.shape)
except ImageError as error:
    said = error.code
grown = peak() - before
print(said, grown * 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, sep=";")
"""


def peak(data: bytes, folder: Path) -> tuple[str, int, int]:
    """What came of reading, the bytes it took beyond the file's own, and those of the decoder's process if any."""
    file = folder / "film"
    file.write_bytes(data)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    assert ended.stderr == ""
    said, grown, apart = ended.stdout.strip().split(";")
    return said, int(grown), int(apart)


def body(depth: str = "u2") -> NDArray[np.integer]:
    """A film of SIDE x SIDE: smooth, with some noise."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    noise = np.random.default_rng(0).integers(0, 9, (SIDE, SIDE))
    values = (np.hypot(x - SIDE / 2, y - SIDE / 3) / SIDE * 4000).astype(int) + noise
    return (values if depth == "u2" else values // 17).clip(0, 4095 if depth == "u2" else 255).astype(depth)


def picture(mode: str, kind: str, **options: object) -> bytes:
    return encoded(Image.fromarray(body("u1")).convert(mode), kind, **options)


WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
FILES: dict[str, Callable[[], bytes]] = {
    "png grey": lambda: picture("L", "png", compress_level=1),
    "png colour": lambda: picture("RGBA", "png", compress_level=1),
    "dicom plain": lambda: saved(film(body(), **WINDOW)),
}
MORE_FILES: dict[str, Callable[[], bytes]] = {
    "png deep": lambda: png(body(), 16),
    "jpeg grey": lambda: picture("L", "jpeg"),
    "jpeg colour": lambda: picture("RGB", "jpeg"),
    "jpeg progressive": lambda: picture("RGB", "jpeg", progressive=True),
    "dicom without a window": lambda: saved(film(body())),
    "dicom padded": lambda: saved(film(body(), PixelPaddingValue=4, PhotometricInterpretation="MONOCHROME1")),
    "dicom deflated": lambda: saved(film(body(), syntax=DeflatedExplicitVRLittleEndian, **WINDOW)),
    "dicom rle": lambda: compressed(film(body(), **WINDOW), RLELossless),
    "dicom j2k": lambda: compressed(film(body(), **WINDOW), JPEG2000Lossless),
    "dicom jls": lambda: compressed(film(body(), **WINDOW), JPEGLSLossless),
    "dicom lossless": lambda: by_gdcm(film(body(), **WINDOW), "lossless"),
}


def check(data: bytes, folder: Path) -> None:
    said, grown, apart = peak(data, folder)
    assert said == f"({SIDE}, {SIDE})"
    assert grown <= BYTES_A_PIXEL * SIDE * SIDE + 20_000_000, f"{grown / SIDE**2:.1f} bytes a pixel"
    assert apart <= 24 * SIDE * SIDE + 60_000_000


@pytest.mark.parametrize("kind", FILES)
def test_memory_is_bounded_by_the_pixels(kind: str, tmp_path: Path) -> None:
    check(FILES[kind](), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MORE_FILES)
def test_memory_is_bounded_by_the_pixels_in_every_format(kind: str, tmp_path: Path) -> None:
    check(MORE_FILES[kind](), tmp_path)


def header(width: int, height: int) -> bytes:
    start = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start)


def text_bomb() -> bytes:
    """A sound little film with a compressed comment that comes to 60 MB."""
    out = io.BytesIO()
    Image.fromarray(body("u1")[:64, :64]).save(out, "png")
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(60_000_000), 9))
    return out.getvalue()[:33] + comment + out.getvalue()[33:]


BOMBS: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "a head alone": (lambda: header(60_000, 60_000), "too_large", 5_000_000),
    "pixels without end": (
        lambda: header(64, 64) + chunk(b"IDAT", zlib.compress(bytes(60_000_000), 9)) + chunk(b"IEND", b""),
        "(64, 64)",
        10_000_000,
    ),
    "a comment": (text_bomb, "(64, 64)", 10_000_000),
    "a DICOM head": (lambda: saved(film(Rows=65535, Columns=65535)), "too_large", 5_000_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(bomb: str, tmp_path: Path) -> None:
    make, expected, limit = BOMBS[bomb]
    said, grown, apart = peak(make(), tmp_path)
    assert said == expected
    assert grown < limit
    assert apart == 0


@pytest.mark.parametrize(
    ("decoder", "data"),
    [
        ("PIL.PngImagePlugin.PngImageFile.load", lambda: picture("L", "png", compress_level=1)),
        ("cxr_mtl.data.codecs._raw_values", lambda: compressed(film(body(), **WINDOW), JPEG2000Lossless)),
    ],
)
def test_no_memory_is_no_damaged_film(decoder: str, data: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    film_bytes = data()
    monkeypatch.setattr(decoder, full)
    with pytest.raises(MemoryError):
        read_image(film_bytes)
