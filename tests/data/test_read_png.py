"""PNG as no library here writes it: interlaced, of few or many bits, with gamma and profiles; numbers by hand."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from dicom_files import ramp
from fuzz_cases import chunk, encoded, png
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
def test_grey_of_any_depth(bits: int, interlaced: bool) -> None:
    top = (1 << bits) - 1
    values = ramp(0, top, "u2")
    read = read_image(png(values, bits, interlaced=interlaced))
    np.testing.assert_allclose(read.pixels, values / top, atol=1e-6)
    assert read.notes == ()


def test_sixteen_bits_are_not_cut_off_at_255() -> None:
    """Pillow's ``convert("L")`` makes white of all but the darkest 256 of 65536 values."""
    values = ramp(0, 65535, "u2")
    read = read_image(encoded(Image.fromarray(values), "png")).pixels
    assert np.mean(read > 0.99) < 0.05
    np.testing.assert_allclose(read, values / 65535, atol=1e-6)
    by_pillow = np.asarray(Image.fromarray(values).convert("L"))
    assert np.mean(by_pillow == 255) > 0.9 or np.abs(by_pillow / 255 - read).max() < 0.01  # fixed one day, maybe


def deep_colour(values: NDArray[np.uint16], kind: int) -> bytes:
    """A 16-bit PNG of kind 2 (colour), 4 (grey and alpha) or 6 (colour and alpha), opaque."""
    grey, full = values[..., None], np.full((*values.shape, 1), 65535, np.uint16)
    layers = np.concatenate({2: [grey] * 3, 4: [grey, full], 6: [grey] * 3 + [full]}[kind], axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in layers)
    head = struct.pack(">LLBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_sixteen_bits_with_colours_or_alpha_keep_the_upper_eight_and_say_so(kind: int) -> None:
    values = ramp(0, 65535, "u2")
    read = read_image(deep_colour(values, kind))
    np.testing.assert_allclose(read.pixels, (values >> 8) / 255, atol=1.1 / 255)
    assert any("8 bits" in note for note in read.notes)
    with pytest.raises(ImageError, match="few of the bits") as caught:  # 12 bits in 16: all but black
        read_image(deep_colour(ramp(0, 4095, "u2"), kind))
    assert (caught.value.code, caught.value.status) == ("unsupported", 415)


def test_a_transparent_grey_of_sixteen_bits() -> None:
    values = ramp(0, 60000, "u2")
    values[:5] = 65535
    read = read_image(png(values, 16, extra=chunk(b"tRNS", struct.pack(">H", 65535))))
    assert read.pixels[:5].max() == 0
    np.testing.assert_allclose(read.pixels[5:], values[5:] / 65535, atol=1e-6)
    assert "transparent" in read.notes[0]


def test_gamma_profiles_and_resolution_change_no_pixel() -> None:
    values = ramp(0, 255, "u1")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    extra = (
        chunk(b"gAMA", struct.pack(">L", 45455)) + chunk(b"sRGB", b"\0") + chunk(b"pHYs", struct.pack(">LLB", 9, 5, 1))
    )
    np.testing.assert_array_equal(read_image(png(values, 8, extra=extra)).pixels, read_image(png(values, 8)).pixels)
    for kind in ("png", "jpeg"):
        plain = read_image(encoded(Image.fromarray(values), kind)).pixels
        marked = read_image(encoded(Image.fromarray(values), kind, icc_profile=profile)).pixels
        np.testing.assert_array_equal(marked, plain)


def test_palettes_with_greys_in_any_order() -> None:
    values = ramp(0, 255, "u1")
    shuffled = np.random.default_rng(0).permutation(256)
    picture = Image.fromarray(np.argsort(shuffled).astype(np.uint8)[values], "L").convert("P")
    picture.putpalette(np.repeat(shuffled.astype(np.uint8), 3).tobytes())
    np.testing.assert_array_equal(np.rint(read_image(encoded(picture, "png")).pixels * 255), values)


def test_a_film_in_strips_is_the_film_whole() -> None:
    """Colours are looked at in strips; what lies in the last, short one counts as well."""
    tall = np.random.default_rng(0).integers(0, 256, (1100, 40), dtype=np.uint8)
    layers = np.dstack([tall] * 3 + [np.full_like(tall, 255)])
    layers[-3:, :, 3] = 0
    read = read_image(encoded(Image.fromarray(layers), "png"))
    np.testing.assert_array_equal(np.rint(read.pixels[:-3] * 255), tall[:-3])
    assert read.pixels[-3:].max() == 0
    assert read.notes == ("transparent parts read as black",)
    layers[:, :, 3] = 255
    layers[:5] = layers[-6:] = (255, 0, 0, 255)
    assert "1.0% of the pixels" in read_image(encoded(Image.fromarray(layers), "png")).notes[0]
