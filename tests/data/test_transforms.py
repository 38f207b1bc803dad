"""The preprocessing: what it draws lies where the letterbox says, at every size and in every format."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from cxr_mtl.data.geometry import rescale_boxes
from cxr_mtl.data.read import read_image
from cxr_mtl.data.transforms import to_input

NIH = Path(__file__).resolve().parents[2].parent / "shared/data/nih"


def found(square: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(4,) xyxy of the one bright rectangle, to a fraction of a pixel: its light's centre, and its light's amount."""
    light = np.where(square < 12, 0.0, square / square.max())  # JPEG rings a little around edges
    edges = []
    for line in (light.max(axis=0), light.max(axis=1)):
        centre, length = np.average(np.arange(len(line)) + 0.5, weights=line), line.sum()
        edges.append((centre - length / 2, centre + length / 2))
    return np.array([edges[0][0], edges[1][0], edges[0][1], edges[1][1]])


def drawn(width: int, height: int, box: list[int]) -> NDArray[np.uint8]:
    picture = np.zeros((height, width), np.uint8)
    picture[box[1] : box[3], box[0] : box[2]] = 255
    return picture


@pytest.mark.parametrize("size", [160, 224, 500, 512])
def test_a_rectangle_is_where_the_letterbox_says_in_both_copies_of_a_film(size: int) -> None:
    width, height, box = 1024, 760, [130, 520, 470, 700]  # lower left, wider than high, in a film wider than high
    png, jpeg = io.BytesIO(), io.BytesIO()
    full = Image.fromarray(drawn(width, height, box))
    full.save(png, "png")
    full.resize((512, 380), Image.Resampling.BOX).save(jpeg, "jpeg", quality=95)
    for data, format_, (w, h) in ((png, "png", (1024, 760)), (jpeg, "jpeg", (512, 380))):
        film = read_image(data.getvalue())
        assert (film.format, film.width, film.height) == (format_, w, h)
        square, letterbox = to_input(film.pixels, size)
        own = rescale_boxes([box], (width, height), (w, h))
        expected = letterbox.to_input(own)[0]
        np.testing.assert_allclose(found(square), expected, atol=0.25)
        np.testing.assert_allclose(letterbox.to_source([found(square)]), own, atol=0.25 / letterbox.scale)
        swapped = expected[[1, 0, 3, 2]]
        assert np.abs(found(square) - swapped).max() > 20  # the test can tell x from y


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_rectangle_in_any_film(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(64, 700)), data.draw(st.integers(64, 700))
    size = data.draw(st.integers(48, 300))
    x1, y1 = data.draw(st.integers(0, width // 2)), data.draw(st.integers(0, height // 2))
    x2, y2 = data.draw(st.integers(x1 + width // 4, width)), data.draw(st.integers(y1 + height // 4, height))
    pixels = drawn(width, height, [x1, y1, x2, y2]).astype(np.float32) / 255
    square, letterbox = to_input(pixels, size)
    x1, y1, x2, y2 = letterbox.to_input([[x1, y1, x2, y2]])[0]
    inner = square[int(np.ceil(y1)) + 1 : int(y2) - 1, int(np.ceil(x1)) + 1 : int(x2) - 1]
    assert (inner > 127).all()
    outside = square.copy()
    outside[max(0, int(y1) - 1) : int(np.ceil(y2)) + 1, max(0, int(x1) - 1) : int(np.ceil(x2)) + 1] = 0
    assert outside.max() <= 127
    left, top = letterbox.dx, letterbox.dy
    fitted = letterbox.fitted
    border = np.ones_like(square, dtype=bool)
    border[top : top + fitted[1], left : left + fitted[0]] = False
    assert not square[border].any()


def test_it_is_torch_antialiased_interpolation() -> None:
    pixels = np.random.default_rng(0).random((301, 477), dtype=np.float32)
    for size in (64, 224, 900):
        square, box = to_input(pixels, size)
        width, height = box.fitted
        source = torch.from_numpy(pixels)[None, None]
        small = functional.interpolate(source, (height, width), mode="bilinear", antialias=True, align_corners=False)
        inner = square[box.dy : box.dy + height, box.dx : box.dx + width]
        assert np.abs(inner - small[0, 0].numpy() * 255).max() <= 0.51


def test_every_source_pixel_counts() -> None:
    """A line one pixel wide must not vanish between samples: its light arrives, wherever it lies."""
    for column in range(100, 116):
        pixels = np.zeros((1024, 1024), np.float32)
        pixels[:, column] = 1
        square, _ = to_input(pixels, 128)
        assert abs(square[64].astype(int).sum() / 255 * 8 - 1) < 0.1


def test_values_are_rounded_not_cut_and_shape_is_square() -> None:
    square, box = to_input(np.full((50, 100), 127.6 / 255, np.float32), 64)
    assert square.dtype == np.uint8
    assert square.shape == (64, 64)
    assert set(np.unique(square)) == {0, 128}
    assert (box.width, box.height, box.size) == (100, 50, 64)


def test_thin_and_tiny_films_survive() -> None:
    for shape in ((1, 4000), (4000, 1), (2, 3)):
        square, box = to_input(np.ones(shape, np.float32), 64)
        assert square.max() == 255
        assert (box.height, box.width) == shape


def test_a_view_of_a_film_is_not_changed() -> None:
    pixels = np.random.default_rng(0).random((80, 90)).astype(np.float32)
    turned, copy = pixels[::-1, ::2], pixels.copy()
    np.testing.assert_array_equal(to_input(turned, 64)[0], to_input(turned.copy(), 64)[0])
    np.testing.assert_array_equal(pixels, copy)


@pytest.mark.skipif(not NIH.is_dir(), reason="../shared/data/nih is not here")
def test_the_model_sees_the_same_in_an_nih_png_and_its_half_size_jpeg() -> None:
    differences = []
    for path in sorted((NIH / "native_1024").glob("*.png")):
        png = read_image(path)
        jpeg = read_image(NIH / "images" / f"{path.stem}.jpg")
        assert (png.width, jpeg.width) == (1024, 512)
        a, b = (to_input(film.pixels, 224)[0].astype(int) for film in (png, jpeg))
        differences.append(np.abs(a - b).mean())
    assert len(differences) == 24
    assert max(differences) < 0.5  # of 255; measured: 0.21 to 0.28
