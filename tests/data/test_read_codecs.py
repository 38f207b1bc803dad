"""Compressed DICOM: every syntax that is read, and decoders that are lied to."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import film, ramp, saved
from fuzz_cases import by_gdcm, compressed, encoded, with_frame
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from cxr_mtl.data import codecs, elements, gdcm_child
from cxr_mtl.data.codecs import unpack_runs
from cxr_mtl.data.read import read_image
from cxr_mtl.data.refuse import MAX_BYTES
from cxr_mtl.errors import ImageError

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
PLAIN = saved(film(**WINDOW))


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    return caught.value


@pytest.mark.parametrize("kind", ["lossless", "lossless14"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_jpeg_equals_uncompressed(kind: str, bits: int, signed: bool) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    values = ramp(low, low + (1 << bits) - 1, ("i" if signed else "u") + ("1" if bits == 8 else "2"))
    data = film(values, bits, WindowCenter=0 if signed else 1 << (bits - 1), WindowWidth=1 << bits)
    plain = read_image(saved(data)).pixels
    np.testing.assert_allclose(plain, (values.astype(float) - low) / ((1 << bits) - 1), atol=1e-6)
    np.testing.assert_array_equal(read_image(by_gdcm(data, kind)).pixels, plain)


def test_extended_jpeg_of_twelve_bits() -> None:
    read = read_image(by_gdcm(film(**WINDOW), "extended")).pixels
    assert np.abs(read * 4095 - ramp(0, 4095, "u2")).max() < 4


def test_extended_jpeg_of_eight_bits_and_of_another_writer() -> None:
    eight = film(ramp(0, 255, "u1"), 8, JPEGExtended12Bit)
    read = read_image(with_frame(eight, encoded(Image.fromarray(ramp(0, 255, "u1")), "jpeg", quality=100)))
    assert np.abs(read.pixels * 255 - ramp(0, 255, "u1")).max() < 4
    other = get_testdata_file("JPEG-lossy.dcm")  # a scan of another kind, whose 12 bits pydicom itself does not decode
    data = pydicom.dcmread(other)
    assert data.file_meta.TransferSyntaxUID == JPEGExtended12Bit
    data.Modality, data.BodyPartExamined = "CR", "CHEST"
    shown = read_image(saved(data))
    assert (shown.height, shown.width) == (data.Rows, data.Columns)
    assert shown.pixels.std() > 0.1
    steps = np.abs(np.diff(shown.pixels, axis=0)).mean(), np.abs(np.diff(shown.pixels, axis=1)).mean()
    assert max(steps) < 0.1  # a picture, not noise


def test_gdcm_crashes_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Bytes that make gdcm crash (a depth of 203 bits, say) and whatever else can end a process are refusals."""
    good = by_gdcm(film(**WINDOW), "lossless")
    for ending in ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "raise MemoryError", "print('short')"):
        script = tmp_path / "child.py"
        script.write_text(ending)
        monkeypatch.setattr(codecs, "_GDCM", script)
        assert (refusal(good).code, refusal(good).status) == ("corrupt", 400)
    script.write_text(f"import sys; sys.exit({gdcm_child.NO_DECODER})")
    assert refusal(good).code == "unsupported_compression"
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(codecs, "_SECONDS", 0.5)
    assert refusal(good).code == "corrupt"
    assert capfd.readouterr() == ("", "")


def test_a_frame_that_really_crashes_gdcm() -> None:
    good = by_gdcm(film(ramp(0, 255, "u1"), 8, WindowCenter=128, WindowWidth=256), "lossless")
    codes = set()
    for number in range(12):  # about one in thirty crashed a process that decoded in itself
        rng = np.random.default_rng(number)
        bad, start = bytearray(good), good.rindex(b"\xff\xd8\xff")
        bad[start + 4 + int(rng.integers(60))] = int(rng.integers(256))
        try:
            codes.add(read_image(bytes(bad)).format)
        except ImageError as error:
            codes.add(error.code)
    assert "corrupt" in codes


def test_gdcm_is_bounded_in_memory() -> None:
    code = "from cxr_mtl.data import gdcm_child; gdcm_child._limit(1 << 28); bytearray(1 << 29)"
    here = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=here)
    assert ended.returncode == 1
    assert "MemoryError" in ended.stderr


def test_deflated_files() -> None:
    data = film(syntax=DeflatedExplicitVRLittleEndian, **WINDOW)
    deflated = saved(data)
    assert len(deflated) < len(PLAIN)
    np.testing.assert_array_equal(read_image(deflated).pixels, read_image(PLAIN).pixels)
    assert read_image(deflated + b"\0").pixels.shape == (40, 48)  # padded to an even length
    for length in range(len(deflated) - 60, len(deflated) - 1):
        assert refusal(deflated[:length]).code in ("truncated", "corrupt")
    start = deflated.index(zlib_start(deflated))
    assert refusal(deflated[:start] + b"\xff" * 50).code == "corrupt"


def zlib_start(deflated: bytes) -> bytes:
    """The first bytes after the file's meta information, whose length its first element states."""
    (length,) = struct.unpack_from("<L", deflated, 140)
    return deflated[144 + length : 160 + length]


def test_a_deflated_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert elements.MAX_BYTES == MAX_BYTES == 200_000_000
    limit = 10_000_000  # the real one takes a second
    monkeypatch.setattr(elements, "MAX_BYTES", limit)
    deflated = saved(film(syntax=DeflatedExplicitVRLittleEndian, **WINDOW))
    start = deflated.index(zlib_start(deflated))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b"\x08\0\x60\0CS\2\0CR\x09\0\1\0OB\0\0" + b"\xff\xff\xff\x7f") + b"".join(
        packer.compress(b"\0" * 1_000_000) for _ in range(100)
    )
    data = deflated[:start] + bomb + packer.flush()
    assert len(data) < 150_000
    tracemalloc.start()
    assert refusal(data).code == "too_large"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * limit


@pytest.mark.parametrize("allocated", [8, 16])
def test_runs_agree_with_pydicom(allocated: int) -> None:
    values = np.random.default_rng(0).integers(0, 4, (40, 48)).cumsum(axis=1).astype(f"u{allocated // 8}")
    values[10:20] = 7  # long runs
    data = film(values, allocated)
    data.compress(RLELossless, generate_instance_uid=False)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    ours = unpack_runs(frame, allocated // 8, values.size)
    np.testing.assert_array_equal(np.frombuffer(ours, values.dtype).reshape(values.shape), data.pixel_array)


def test_runs_that_come_to_too_much_or_too_little() -> None:
    right, head = b"\x81\0" * 15, struct.pack("<16L", 1, 64, *[0] * 14)  # runs of 128; 40 x 48 is 15 of them
    black = unpack_runs(head + right, 1, 1920)
    assert black == bytes(1920)
    tracemalloc.start()
    assert unpack_runs(head + right + b"\x81\0" * 100_000, 1, 1920) == black  # unpacked no further than needed
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    bad = [head + right[:-2], head + b"\x7f" + bytes(50), head, b"", struct.pack("<16L", 2, 64, *[0] * 14) + right]
    for frame in [*bad, struct.pack("<16L", 1, 9999, *[0] * 14) + right]:
        with pytest.raises(ImageError):
            unpack_runs(frame, 1, 1920)


def test_jpeg_ls_without_its_end_does_not_keep_the_decoder_counting() -> None:
    whole = compressed(film(**WINDOW), JPEGLSLossless)
    end = whole.rindex(b"\xff\xd9")
    began = time.perf_counter()
    for number in range(300):
        rng = np.random.default_rng(number)
        bad = bytearray(whole)
        for _ in range(int(rng.integers(1, 5))):
            bad[end - int(rng.integers(1, 850))] = int(rng.integers(256))
        bad[end : end + 2] = rng.bytes(2)
        if number % 2:
            bad[end - 850 : end - 848] = b"\xff\xd9"  # an end there is, and bytes beyond it
        with contextlib.suppress(ImageError):
            read_image(bytes(bad))
    assert time.perf_counter() - began < 3  # one such stream alone used to take 3.5 s


def test_fragments_join_and_jpeg_without_its_end_is_cut() -> None:
    out = io.BytesIO()
    Image.fromarray(ramp(0, 255, "u1")).save(out, "jpeg", quality=90)
    data = film(ramp(0, 255, "u1"), 8, JPEGBaseline8Bit)
    one, three = read_image(with_frame(data, out.getvalue())), read_image(with_frame(data, out.getvalue(), 3))
    np.testing.assert_array_equal(one.pixels, three.pixels)
    assert refusal(with_frame(data, out.getvalue()[:-40])).code == "truncated"


def test_a_colour_picture_inside_a_film_that_calls_itself_grey() -> None:
    out = io.BytesIO()
    Image.fromarray(ramp(0, 255, "u1")).convert("RGB").save(out, "jpeg")
    assert refusal(with_frame(film(ramp(0, 255, "u1"), 8, JPEGBaseline8Bit), out.getvalue())).code == "corrupt"


def test_depth_comes_from_the_stream() -> None:
    """A film that states 16 bits stored over a 12-bit stream: the stream is right."""
    data = film(**WINDOW)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    plain = read_image(saved(data)).pixels
    data.BitsStored, data.HighBit = 16, 15
    np.testing.assert_array_equal(read_image(saved(data)).pixels, plain)
