"""DICOM's grey arithmetic on random films, held to pydicom's where pydicom is right, else to the standard's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dicom_files import H, W, film, lut, ramp, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_presentation_lut, apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from cxr_mtl.data.read import read_image

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


@st.composite
def stored(draw: st.DrawFn) -> tuple[NDArray[Any], int]:
    """Values that fill 8 to 16 bits, signed or not, and the bits."""
    bits, signed = draw(st.integers(8, 16)), draw(st.booleans())
    low = -(1 << (bits - 1)) if signed else 0
    kind = ("i" if signed else "u") + ("1" if bits == 8 else "2")
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    values = rng.integers(low, low + (1 << bits), (H, W))
    values[0, :2] = low, low + (1 << bits) - 1
    return values.astype(kind), bits


def ends(data: Dataset) -> tuple[float, float]:
    """What stored bits can be, after the modality step."""
    low = -(1 << (data.BitsStored - 1)) if data.PixelRepresentation else 0
    both = np.array([low, low + (1 << data.BitsStored) - 1]) * float(data.get("RescaleSlope", 1))
    return tuple(sorted(both + float(data.get("RescaleIntercept", 0))))  # type: ignore[return-value]


@settings(max_examples=120)
@given(
    stored(),
    st.sampled_from(NATIVE),
    st.sampled_from([None, (1.0, 0.0), (2.0, -1024.0), (0.25, 3.5), (-1.0, 100.0)]),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    st.floats(0.1, 0.9),
    st.floats(0.05, 1.5),
    st.booleans(),
)
def test_modality_window_and_inversion(
    values: tuple[NDArray[Any], int], syntax: str, rescale: Any, function: str, middle: float, wide: float, dark: bool
) -> None:
    data = film(*values, syntax)
    if values[1] == 8 and syntax == ExplicitVRBigEndian:
        data["PixelData"].VR = "OB"
    if rescale:
        data.RescaleSlope, data.RescaleIntercept = rescale
    low, high = ends(data)
    data.VOILUTFunction, data.PhotometricInterpretation = function, "MONOCHROME1" if dark else "MONOCHROME2"
    data.WindowCenter = round(low + (high - low) * middle, 1)
    data.WindowWidth = max(2.0, round((high - low) * wide, 1))
    shown = apply_voi_lut(apply_modality_lut(values[0], data), data)
    if rescale and rescale[0] < 0:  # pydicom takes the least output for the greatest there
        shown = (high + low) - shown if shown[0, 0] < shown[0, 1] else shown
    expected = (shown - low) / (high - low)
    read = read_image(saved(data))
    np.testing.assert_allclose(read.pixels, 1 - expected if dark else expected, atol=5e-5)
    assert read.inverted == dark


@settings(max_examples=50)
@given(st.data(), st.sampled_from([10, 12, 16]), st.booleans())
def test_tables_before_windows_and_on_signed_values(data: st.DataObject, bits: int, signed: bool) -> None:
    low, length = (-2048 if signed else 0), data.draw(st.integers(2, 5000))
    first = data.draw(st.integers(low, low + 4000))
    rng = np.random.default_rng(length)
    curve = np.sort(rng.integers(0, 1 << bits, length)).astype("u2")
    values = ramp(low, low + 4095, "i2" if signed else "u2")
    dataset = film(values, 12, WindowCenter=1, WindowWidth=2, VOILUTSequence=lut(curve, first, bits))
    if signed:
        dataset.VOILUTSequence[0]["LUTDescriptor"].VR = "SS"
    shown = apply_voi_lut(values, dataset)
    np.testing.assert_allclose(read_image(saved(dataset)).pixels, shown / ((1 << bits) - 1), atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_tables_of_eight_bits_in_bytes_or_in_words(packed: bool) -> None:
    curve = np.linspace(255, 0, 4096).astype("u2")
    dataset = film(VOILUTSequence=lut(curve, 0, 8))
    if packed:
        dataset.VOILUTSequence[0].LUTData = curve.astype("u1").tobytes()
    expected = curve[ramp(0, 4095, "u2")] / 255
    np.testing.assert_allclose(read_image(saved(dataset)).pixels, expected, atol=1e-6)


def test_a_signed_table_over_a_film_that_happens_to_be_positive() -> None:
    curve = np.arange(4096, dtype="u2")
    values = ramp(100, 2047, "i2")  # may be negative by its bits, and is not
    dataset = film(values, 12, VOILUTSequence=lut(curve, -2048, 12))
    np.testing.assert_allclose(read_image(saved(dataset)).pixels, (values + 2048) / 4095, atol=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([10, 12, 16]), st.sampled_from([256, 1024, 4096]))
def test_presentation_tables(seed: int, bits: int, length: int) -> None:
    curve = np.sort(np.random.default_rng(seed).integers(0, 1 << bits, length)).astype("u2")
    curve[0], curve[-1] = 0, (1 << bits) - 1
    data = film(WindowCenter=2048, WindowWidth=4096, PresentationLUTSequence=lut(curve, 0, bits))
    read = read_image(saved(data))
    places = np.rint(ramp(0, 4095, "u2") / 4095 * (length - 1)).astype(int)
    np.testing.assert_allclose(read.pixels, curve[places] / ((1 << bits) - 1), atol=1e-6)
    theirs = apply_presentation_lut(ramp(0, 4095, "u2"), data) / ((1 << bits) - 1)  # which cuts where we round
    assert np.abs(read.pixels - theirs).max() <= np.diff(curve.astype(int)).max() / ((1 << bits) - 1) + 1e-6
    assert "presentation table" in read.notes[-1]
    assert not read.inverted


def test_presentation_goes_between_window_and_inversion() -> None:
    rising = np.rint(4095 * np.linspace(0, 1, 4096) ** 2).astype("u2")
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    grey = ramp(0, 4095, "u2") / 4095
    dark = read_image(
        saved(film(**window, PhotometricInterpretation="MONOCHROME1", PresentationLUTSequence=lut(rising, 0, 12)))
    )
    assert dark.inverted
    np.testing.assert_allclose(dark.pixels, 1 - grey**2, atol=5e-4)  # not (1 - grey) ** 2
    falling = film(**window, PhotometricInterpretation="MONOCHROME1", PresentationLUTSequence=lut(rising[::-1], 0, 12))
    turned = read_image(saved(falling))  # the table turns it by itself: not turned back
    assert turned.inverted
    np.testing.assert_allclose(turned.pixels, (1 - grey) ** 2, atol=5e-4)


def test_the_standards_own_numbers_for_linear_windows() -> None:
    """PS3.3 C.11.2.1.2.1 works out c 2048 with w 4096 and w 1, and c 0 with w 100."""
    values = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (32, 1))
    full = read_image(saved(film(values, WindowCenter=2048, WindowWidth=4096))).pixels
    np.testing.assert_allclose(full, values / 4095, atol=1e-6)
    step = read_image(saved(film(values, WindowCenter=2048, WindowWidth=1))).pixels
    np.testing.assert_array_equal(step, values > 2047.5)
    around = np.tile(np.arange(-60, 60, dtype=np.int16), (32, 1))
    hundred = read_image(saved(film(around, WindowCenter=0, WindowWidth=100))).pixels[0]
    # x <= -50 is black, x > 49 is white, else ((x + .5) / 99 + .5)
    by_hand = {-60: 0, -51: 0, -50: 0, -49: 1 / 99, -1: 49 / 99, 0: 50 / 99, 48: 98 / 99, 49: 1, 50: 1, 59: 1}
    for x, expected in by_hand.items():
        assert hundred[x + 60] == pytest.approx(expected, abs=1e-6), x
    exact = read_image(saved(film(around, WindowCenter=0, WindowWidth=100, VOILUTFunction="LINEAR_EXACT"))).pixels[0]
    assert [float(exact[x + 60]) for x in (-50, 0, 25, 50)] == pytest.approx([0, 0.5, 0.75, 1], abs=1e-6)
    sigmoid = read_image(saved(film(around, WindowCenter=0, WindowWidth=100, VOILUTFunction="SIGMOID"))).pixels[0]
    assert [float(sigmoid[x + 60]) for x in (0, 25)] == pytest.approx([0.5, 1 / (1 + np.exp(-1))], abs=1e-6)


@settings(max_examples=40)
@given(stored(), st.sampled_from([RLELossless, JPEG2000Lossless, JPEGLSLossless]))
def test_lossless_compression_of_any_depth_and_sign_changes_nothing(
    values: tuple[NDArray[Any], int], syntax: str
) -> None:
    data = film(*values)
    low, high = ends(data)
    data.WindowCenter, data.WindowWidth = (low + high + 1) / 2, high - low + 1
    plain = read_image(saved(data))
    np.testing.assert_allclose(plain.pixels, (values[0] - low) / (high - low), atol=1e-6)
    data.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_image(saved(data)).pixels, plain.pixels)


@settings(max_examples=40)
@given(stored(), st.integers(0, 10**6))
def test_padding_ranges(values: tuple[NDArray[Any], int], seed: int) -> None:
    pixels, bits = values
    a, b = sorted(np.random.default_rng(seed).choice(pixels.ravel(), 2).tolist())
    data = film(pixels, bits)
    low, high = ends(data)
    data.WindowCenter, data.WindowWidth, data.PhotometricInterpretation = (
        (low + high + 1) / 2,
        high - low + 1,
        "MONOCHROME1",
    )
    for tag, value in ((0x00280120, a), (0x00280121, b)):  # padding value and range limit
        data.add_new(tag, "SS" if data.PixelRepresentation else "US", value)
    where = (pixels >= a) & (pixels <= b)
    read = read_image(saved(data)).pixels
    assert not read[where].any()
    np.testing.assert_allclose(read[~where], 1 - (pixels[~where] - low) / (high - low), atol=1e-6)
