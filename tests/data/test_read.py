"""PNG and JPEG through ``read_image``, and what it refuses. Pillow, which writes the files, is the oracle."""

from __future__ import annotations

import io
import os
import struct
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cxr_mtl.data.read import read_image
from cxr_mtl.data.refuse import MAX_BYTES, STATUS
from cxr_mtl.errors import ImageError

SHARED = Path(__file__).resolve().parents[2].parent / "shared/data"
NATIVE = SHARED / "nih/native_1024"


def film(height: int = 40, width: int = 48) -> NDArray[np.uint8]:
    """(H, W) smooth and without any symmetry, so that a wrong turn or axis shows."""
    y, x = np.mgrid[0:height, 0:width]
    return np.rint(255 * (0.7 * x / (width - 1) + 0.3 * (y / (height - 1)) ** 2)).astype(np.uint8)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def refusal(source: Path | bytes, **kwargs: str) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image(source, **kwargs)
    error = caught.value
    assert error.status == STATUS[error.code]
    assert error.hint
    assert "\n" not in str(error)
    return error


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def bare_png(width: int, height: int, idat: bytes = b"", bits: int = 8) -> bytes:
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


GREY = Image.fromarray(film())


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_every_way_to_store_grey_in_png_gives_the_same_pixels(mode: str) -> None:
    read = read_image(encoded(GREY.convert(mode), "png"))
    np.testing.assert_array_equal(np.rint(read.pixels * 255), film())
    assert read.pixels.dtype == np.float32
    assert (read.format, read.inverted, read.notes) == ("png", False, ())
    assert (read.width, read.height) == (48, 40)


def test_sixteen_bits_keep_their_depth() -> None:
    deep = np.linspace(0, 65535, 40 * 48).reshape(40, 48).astype(np.uint16)
    read = read_image(encoded(Image.fromarray(deep), "png"))
    np.testing.assert_allclose(read.pixels, deep / 65535, atol=1e-6)
    assert read.notes == ()


@pytest.mark.parametrize(("top", "bits"), [(4095, 12), (3000, 12), (1023, 10), (200, 8)])
def test_sixteen_bit_files_of_shallow_data_are_not_read_as_black(top: int, bits: int) -> None:
    shallow = np.linspace(0, top, 40 * 48).reshape(40, 48).astype(np.uint16)
    read = read_image(encoded(Image.fromarray(shallow), "png"))
    np.testing.assert_allclose(read.pixels, shallow / (2**bits - 1), atol=1e-6)
    assert f"{bits}-bit" in read.notes[0]


def test_one_bit_and_few_bit_files_span_black_to_white() -> None:
    read = read_image(encoded(GREY.convert("1"), "png"))
    assert set(np.unique(read.pixels)) == {0.0, 1.0}
    np.testing.assert_array_equal(read.pixels == 1, np.asarray(GREY.convert("1")))
    ramp = bytes([0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF] * 4)
    four = read_image(bare_png(64, 32, zlib.compress((b"\0" + ramp) * 32), bits=4))
    np.testing.assert_allclose(four.pixels[0, :16], np.arange(16) / 15, atol=1e-6)


def test_transparent_parts_read_as_black() -> None:
    layers = np.dstack([film(), np.full((40, 48), 255, np.uint8)])
    layers[:20, :, 1] = 0
    read = read_image(encoded(Image.fromarray(layers), "png"))
    assert read.pixels[:20].max() == 0
    np.testing.assert_array_equal(np.rint(read.pixels[20:] * 255), film()[20:])
    assert "transparent" in read.notes[0]


@pytest.mark.parametrize(("mode", "options"), [("L", {}), ("RGB", {}), ("L", {"progressive": True}), ("CMYK", {})])
def test_jpeg_of_grey(mode: str, options: dict[str, object]) -> None:
    data = encoded(GREY.convert(mode), "jpeg", quality=95, **options)
    read = read_image(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").convert("L"))
    np.testing.assert_array_equal(np.rint(read.pixels * 255), expected)
    assert np.abs(read.pixels * 255 - film()).mean() < 3
    assert read.format == "jpeg"


def test_strongly_compressed_grey_stored_as_colour_is_no_colour_photograph() -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    rgb = Image.fromarray(noisy).convert("RGB")
    assert read_image(encoded(rgb, "jpeg", quality=10)).notes == ()


def test_colour_photographs_are_refused_and_coloured_marks_are_not() -> None:
    colours = np.zeros((100, 100, 3), np.uint8)
    colours[..., 0], colours[..., 1], colours[..., 2] = 180, 120, 90
    for kind in ("png", "jpeg"):
        error = refusal(encoded(Image.fromarray(colours), kind), name="lunch.jpg")
        assert error.code == "colour"
        assert error.message.startswith("lunch.jpg is a colour picture: 100%")
    marked = np.repeat(film(100, 100)[..., None], 3, axis=2)
    marked[:10, :10] = (255, 0, 0)
    read = read_image(encoded(Image.fromarray(marked), "png"))
    assert "1.0%" in read.notes[0]
    marked[:, :10] = (255, 0, 0)
    assert "10%" in refusal(encoded(Image.fromarray(marked), "png")).message


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_as_pillow_does(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(GREY, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    read = read_image(data)
    np.testing.assert_array_equal(np.rint(read.pixels * 255), np.asarray(upright))
    assert bool(read.notes) == (orientation != 1)


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff" + b"\0" * 9, b"MM\0*" + b"\xff" * 40])
def test_broken_exif_is_ignored_in_silence(exif: bytes) -> None:
    assert read_image(encoded(GREY, "jpeg", exif=b"Exif\0\0" + exif)).pixels.shape == (40, 48)


HUGE = bare_png(40_000, 40_000, zlib.compress(b"\0" * 1000))
HUGE_JPEG = encoded(GREY, "jpeg").replace(struct.pack(">HH", 40, 48), struct.pack(">HH", 65500, 65500), 1)
FRAME = b"\xff\xc0\x00\x0b\x08"  # marker, length, bits
LOSSLESS = encoded(GREY, "jpeg").replace(FRAME, b"\xff\xc3\x00\x0b\x08")
TWELVE_BIT = encoded(GREY, "jpeg").replace(FRAME, b"\xff\xc1\x00\x0b\x0c")
SMALL = encoded(GREY.resize((31, 100)), "png")


@pytest.mark.parametrize(
    ("data", "code", "status", "says"),
    [
        (b"", "empty", 400, "is empty"),
        (b"\x89PN", "truncated", 400, "first bytes"),
        (b"PatientName: Doe", "unsupported", 415, "is text, not"),
        (b"<!DOCTYPE html><html>Sign in</html>", "unsupported", 415, "web page"),
        (encoded(GREY, "gif"), "unsupported", 415, "GIF"),
        (encoded(GREY, "tiff"), "unsupported", 415, "TIFF"),
        (encoded(GREY, "webp"), "unsupported", 415, "WebP"),
        (encoded(GREY, "bmp"), "unsupported", 415, "BMP"),
        (b"%PDF-1.7", "unsupported", 415, "PDF"),
        (bytes(range(200, 256)), "unsupported", 415, "unknown"),
        (HUGE, "too_large", 413, "40000 x 40000"),
        (HUGE_JPEG, "too_large", 413, "65500 x 65500"),
        (bare_png(100, 100), "corrupt", 400, "damaged PNG"),
        (bare_png(100, 100, zlib.compress(b"\0" * 500)), "corrupt", 400, "damaged PNG"),
        (SMALL, "too_small", 422, "31 x 100"),
        (b"\xff\xd8\xff\xd9" + b"\0" * 20, "corrupt", 400, "damaged JPEG"),
        (LOSSLESS, "unsupported_compression", 415, "lossless"),
        (TWELVE_BIT, "unsupported_compression", 415, "12-bit"),
        (encoded(GREY, "jpeg") + b"\xff\xda" * 101 + b"\xff\xd9", "corrupt", 400, "damaged JPEG"),
    ],
)  # fmt: skip
def test_what_is_refused(data: bytes, code: str, status: int, says: str) -> None:
    error = refusal(data, name="scan.dcm")
    assert (error.code, error.status) == (code, status)
    assert error.message.startswith("scan.dcm ")
    assert says in error.message


def test_a_server_s_bytearray_reads_like_bytes() -> None:
    assert read_image(bytearray(PNG)).sha256 == read_image(PNG).sha256
    assert refusal(bytearray(b"\x89PN")).code == "truncated"


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "mislabelled.dcm"
    file.write_bytes(encoded(GREY, "png"))
    assert read_image(file).format == "png"
    assert refusal(tmp_path / "none.png").message == "none.png does not exist."
    assert refusal(tmp_path).code == "unreadable"
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").code == "unreadable"
    with (tmp_path / "big.png").open("wb") as big:
        big.truncate(MAX_BYTES + 1)
    assert refusal(tmp_path / "big.png").code == "too_large"


def test_names_in_messages_are_one_short_line_without_the_folder() -> None:
    message = refusal(b"", name="/data/Jane Doe/a\nb\x1b[31m.png").message
    assert message == "a?b?[31m.png is empty."
    assert refusal(b"", name="C:\\Jane Doe\\film.png").message == "film.png is empty."
    assert len(refusal(b"", name="x" * 500).message) < 100
    assert refusal(b"").message == "the picture is empty."


def test_blank_film_is_read_and_said_to_be_blank() -> None:
    assert "blank" in read_image(encoded(Image.new("L", (64, 64), 7), "png")).notes[-1]


def test_a_huge_header_costs_no_memory() -> None:
    tracemalloc.start()
    refusal(HUGE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


PNG, JPEG = encoded(GREY, "png"), encoded(GREY, "jpeg")


@pytest.mark.parametrize("data", [PNG, JPEG], ids=["png", "jpeg"])
def test_a_file_cut_anywhere_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        assert refusal(data[:length]).status in (400, 415)


@settings(deadline=None)
@given(st.integers(0, len(PNG) - 1), st.integers(1, 255))
def test_a_png_with_any_byte_changed_is_refused_or_the_same(place: int, change: int) -> None:
    damaged = bytearray(PNG)
    damaged[place] ^= change
    try:
        read = read_image(bytes(damaged))
    except ImageError:
        return
    np.testing.assert_array_equal(np.rint(read.pixels * 255), film())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(2, len(JPEG) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_jpeg_gives_a_picture_or_a_refusal_and_nothing_else(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(JPEG)
    for place, value in changes:
        damaged[place] = value
    try:
        read = read_image(bytes(damaged))
    except ImageError:
        return
    assert np.isfinite(read.pixels).all()


def test_threads_read_at_once_and_no_warning_filter_moves() -> None:
    files = [PNG, JPEG, HUGE, encoded(GREY.convert("P"), "png", transparency=b"\xff\x80")] * 4
    before, failures = list(warnings.filters), []

    def work() -> None:
        for data in files:
            try:
                read_image(data)
            except ImageError as error:
                if error.code != "too_large":
                    failures.append(error)
            if list(warnings.filters) != before:
                failures.append("filters moved")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.skipif(not NATIVE.is_dir(), reason="../shared/data/nih is not here")
def test_nih_files_grey_and_rgba_read_as_pillow_shows_them() -> None:
    modes = []
    for path in sorted(NATIVE.glob("*.png")):
        with Image.open(path) as picture:
            modes.append(picture.mode)
            np.testing.assert_array_equal(np.rint(read_image(path).pixels * 255), np.asarray(picture.convert("L")))
    assert (modes.count("RGBA"), modes.count("L")) == (4, 20)
