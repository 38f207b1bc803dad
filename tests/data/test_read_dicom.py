"""DICOM through ``read_image``. pydicom, which writes the files and has its own grey arithmetic, is the oracle."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import film, lut, ramp, saved
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from cxr_mtl.data.read import read_image


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("rescale", [None, (1.0, 0.0), (2.5, -1024.0), (-1.0, 4095.0)])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicom(photometric: str, signed: bool, rescale: Any, function: str) -> None:
    values = ramp(-2048, 2047, "i2") if signed else ramp(0, 4095, "u2")
    slope, intercept = rescale or (1.0, 0.0)
    ends = np.array([-2048, 2047] if signed else [0, 4095]) * slope + intercept
    data = film(values, PhotometricInterpretation=photometric, VOILUTFunction=function)
    data.WindowCenter, data.WindowWidth = round(ends.mean()) - 300, 900
    if rescale is not None:
        data.RescaleSlope, data.RescaleIntercept = rescale
    shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    expected = (shown - ends[0]) / (ends[1] - ends[0])
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    read = read_image(saved(data))
    np.testing.assert_allclose(read.pixels, expected, atol=2e-5)
    assert 0.2 < expected.std() < 0.6  # the window shows something, so that agreeing means something
    assert read.inverted == (photometric == "MONOCHROME1")
    assert function.lower() in read.notes[-1]


def test_the_half_value_rule_of_linear_windows() -> None:
    values = np.tile(np.arange(32, dtype=np.uint8), (32, 1))
    linear = read_image(saved(film(values, bits=8, WindowCenter=16, WindowWidth=32))).pixels[0]
    np.testing.assert_allclose(linear, np.arange(32) / 31, atol=1e-6)  # 32 values: the first is black, the last white
    exact = read_image(saved(film(values, 8, WindowCenter=16, WindowWidth=32, VOILUTFunction="LINEAR_EXACT"))).pixels[0]
    np.testing.assert_allclose(exact, np.arange(32) / 32, atol=1e-6)
    step = read_image(saved(film(values, bits=8, WindowCenter=16, WindowWidth=1))).pixels[0]
    np.testing.assert_array_equal(step, np.arange(32) >= 16)


def test_first_of_several_windows() -> None:
    several = read_image(saved(film(WindowCenter=[1000, 3000], WindowWidth=[500, 100])))
    one = read_image(saved(film(WindowCenter=1000, WindowWidth=500)))
    np.testing.assert_array_equal(several.pixels, one.pixels)


@pytest.mark.parametrize("first", [0, 300, -500])
@pytest.mark.parametrize("undefined_length", [False, True])
def test_look_up_tables_agree_with_pydicom(first: int, undefined_length: bool) -> None:
    curve = np.rint(1023 * np.linspace(0, 1, 2000) ** 2).astype("u2")
    values = ramp(-2048, 2047, "i2") if first < 0 else ramp(0, 4095, "u2")
    data = film(values, VOILUTSequence=lut(curve, first, 10), WindowCenter=5, WindowWidth=5)
    data["VOILUTSequence"].is_undefined_length = undefined_length
    data.VOILUTSequence[0].is_undefined_length_sequence_item = undefined_length
    read = read_image(saved(data))
    np.testing.assert_allclose(read.pixels, apply_voi_lut(values, data) / 1023, atol=1e-6)
    assert "look-up table" in read.notes[0]


def test_modality_table_goes_before_the_window() -> None:
    curve = np.rint(65535 * np.linspace(1, 0, 4096)).astype("u2")
    data = film(ModalityLUTSequence=lut(curve, 0, 16), WindowCenter=20000, WindowWidth=30000)
    expected = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data) / 65535
    np.testing.assert_allclose(read_image(saved(data)).pixels, expected, atol=1e-5)


def test_table_with_more_bits_than_it_states_and_tables_that_do_not_fit() -> None:
    curve = np.linspace(0, 4095, 4096).astype("u2")
    assert read_image(saved(film(VOILUTSequence=lut(curve, 0, 10)))).pixels.max() == 1
    short = lut(curve, 0, 12)
    short[0].LUTDescriptor = [5000, 0, 12]
    notes = read_image(saved(film(VOILUTSequence=short, WindowCenter=2048, WindowWidth=4096))).notes
    assert notes == ("window 2048 wide 4096 (linear)",)


def test_inversion_comes_after_the_window() -> None:
    read = read_image(saved(film(PhotometricInterpretation="MONOCHROME1", WindowCenter=600, WindowWidth=1000)))
    assert read.inverted
    assert read.pixels[0, 0] > 0.8  # stored 0 is dense
    assert read.pixels[-1, -1] == 0  # stored 4095 lies above the window: no density at all


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "contradicts"),
    [
        ("MONOCHROME1", "INVERSE", True, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME2", "INVERSE", True, True),
        ("MONOCHROME1", "IDENTITY", True, True),
    ],
)
def test_polarity(photometric: str, shape: str, inverted: bool, contradicts: bool) -> None:
    read = read_image(saved(film(PhotometricInterpretation=photometric, PresentationLUTShape=shape)))
    assert read.inverted == inverted
    assert (read.pixels[0, 0] > read.pixels[-1, -1]) == inverted
    assert any("contradict" in note for note in read.notes) == contradicts


def test_without_a_window_eight_bits_are_shown_whole_and_more_are_stretched() -> None:
    eight = read_image(saved(film(ramp(50, 200, "u1"), bits=8)))
    np.testing.assert_allclose(eight.pixels, ramp(50, 200, "u1") / 255, atol=1e-6)
    assert "full range" in eight.notes[0]
    deep = read_image(saved(film(ramp(10_000, 12_000, "u2"), bits=16)))
    assert (deep.pixels.min(), deep.pixels.max()) == (0, 1)
    assert "percentile" in deep.notes[0]
    useless = read_image(saved(film(WindowCenter=-5000, WindowWidth=100)))
    assert useless.pixels.std() > 0.2
    assert "does not fit" in useless.notes[0]
    assert "percentile" in read_image(saved(film(WindowCenter=100, WindowWidth=0))).notes[1]
    left_over = read_image(saved(film(ramp(50, 200, "u1"), bits=8, WindowCenter=2048, WindowWidth=4096)))
    np.testing.assert_array_equal(left_over.pixels, eight.pixels)


def test_padding_is_black_and_does_not_stretch_the_rest() -> None:
    values = ramp(1000, 2000, "u2")
    values[:10] = 4000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        data = film(values, PhotometricInterpretation=photometric, PixelPaddingValue=3990, PixelPaddingRangeLimit=4095)
        read = read_image(saved(data))
        assert read.pixels[:10].max() == 0
        assert read.pixels[10:].max() == 1


def test_bits_that_are_not_stored_do_not_count() -> None:
    values, window = ramp(0, 1023, "u2"), {"WindowCenter": 512, "WindowWidth": 1024}
    clean = read_image(saved(film(values, bits=10, **window))).pixels
    overlay = read_image(saved(film(values | 0x8000, bits=10, **window))).pixels
    shifted = read_image(saved(film(values << 6, bits=10, HighBit=15, **window))).pixels
    np.testing.assert_array_equal(clean, overlay)
    np.testing.assert_array_equal(clean, shifted)
    np.testing.assert_allclose(clean, values / 1023, atol=1e-6)
    negative = ramp(-512, 511, "i2")  # ten bits, two's complement, the six above them cleared
    signed = film((negative & 0x3FF).astype("i2"), bits=10, WindowCenter=0, WindowWidth=1024)
    np.testing.assert_allclose(read_image(saved(signed)).pixels, (negative + 512) / 1023, atol=1e-6)


def without_preamble(data: Dataset) -> bytes:
    out = io.BytesIO()
    del data.file_meta
    pydicom.dcmwrite(out, data, implicit_vr=True, little_endian=True)
    return out.getvalue()


WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
PLAIN = saved(film(**WINDOW))


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_syntaxes(syntax: str, bits: int) -> None:
    values = ramp(0, (1 << bits) - 1, "u1" if bits == 8 else "u2")
    data = film(values, bits, syntax, WindowCenter=1 << (bits - 1), WindowWidth=1 << bits)
    if syntax == ExplicitVRBigEndian and bits == 8:
        data.PixelData = values.ravel().view("<u2").astype(">u2").tobytes()  # bytes within words swap
    np.testing.assert_allclose(read_image(saved(data)).pixels, values / ((1 << bits) - 1), atol=1e-6)


def test_without_preamble() -> None:
    np.testing.assert_array_equal(read_image(without_preamble(film(**WINDOW))).pixels, read_image(PLAIN).pixels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_syntaxes_equal_uncompressed(syntax: str, signed: bool) -> None:
    values = ramp(-2048, 2047, "i2") if signed else ramp(0, 4095, "u2")
    data = film(values, WindowCenter=0 if signed else 2048, WindowWidth=4096)
    plain = read_image(saved(data)).pixels
    data.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_image(saved(data)).pixels, plain)


def test_baseline_jpeg_inside_dicom() -> None:
    out = io.BytesIO()
    Image.fromarray(ramp(0, 255, "u1")).save(out, "jpeg", quality=100)
    data = film(ramp(0, 255, "u1"), bits=8, syntax=JPEGBaseline8Bit)
    data.PixelData = encapsulate([out.getvalue()])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    assert np.abs(read_image(saved(data)).pixels * 255 - ramp(0, 255, "u1")).max() < 4
