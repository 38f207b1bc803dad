"""Letterbox arithmetic: exact inverse, inside the square, and the same at every size of the same picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from cxr_mtl.data.geometry import Letterbox, rescale_boxes

sides = st.integers(1, 5000)
fractions = st.floats(0, 1)
letterboxes = st.builds(Letterbox, sides, sides, st.integers(1, 1024))


def boxes_in(box: Letterbox, corners: list[float]) -> list[list[float]]:
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    return [[x1 * box.width, y1 * box.height, x2 * box.width, y2 * box.height]]


@settings(deadline=None)
@given(letterboxes, st.lists(fractions, min_size=4, max_size=4))
def test_there_and_back_is_where_it_was(box: Letterbox, corners: list[float]) -> None:
    there = boxes_in(box, corners)
    assert_allclose(box.to_source(box.to_input(there)), there, atol=1e-6 * max(box.width, box.height))


@settings(deadline=None)
@given(letterboxes)
def test_the_whole_picture_fills_the_square_one_way_and_is_centred_the_other(box: Letterbox) -> None:
    x1, y1, x2, y2 = box.to_input([[0, 0, box.width, box.height]])[0]
    assert_allclose([x1, y1], [box.dx, box.dy])
    assert min(x1, y1) == 0
    assert_allclose(max(x2 - x1, y2 - y1), box.size)
    assert max(x2, y2) <= box.size + 1e-9
    assert abs(x1 - (box.size - x2)) <= 1 + 1e-9
    assert abs(y1 - (box.size - y2)) <= 1 + 1e-9


@settings(deadline=None)
@given(letterboxes)
def test_aspect_is_kept_to_half_a_pixel(box: Letterbox) -> None:
    for side, fitted in zip((box.width, box.height), box.fitted, strict=True):
        assert abs(side * box.scale - fitted) <= 0.5 + 1e-9 or fitted == 1


@settings(deadline=None)
@given(letterboxes, st.lists(st.floats(-2000, 7000), min_size=4, max_size=4))
def test_whatever_the_model_says_stays_in_the_film(box: Letterbox, anywhere: list[float]) -> None:
    x1, y1, x2, y2 = box.to_source([anywhere])[0]
    assert min(x1, x2) >= 0
    assert max(x1, x2) <= box.width
    assert min(y1, y2) >= 0
    assert max(y1, y2) <= box.height


def test_examples_by_hand() -> None:
    box = Letterbox(width=2048, height=1024, size=256)
    assert (box.scale, box.dx, box.dy, box.fitted) == (0.125, 0, 64, (256, 128))
    assert_array_equal(
        box.to_input([[0, 0, 2048, 1024], [800, 80, 1600, 160]]), [[0, 64, 256, 192], [100, 74, 200, 84]]
    )
    assert_array_equal(box.to_source([[100, 74, 200, 84], [-5, 0, 300, 64]]), [[800, 80, 1600, 160], [0, 0, 2048, 0]])
    tall = Letterbox(width=512, height=1024, size=256)
    assert (tall.dx, tall.dy) == (64, 0)


def test_no_boxes_stay_no_boxes() -> None:
    assert Letterbox(10, 20, 8).to_input([]).shape == (0, 4)
    assert Letterbox(10, 20, 8).to_source(np.zeros((0, 4))).shape == (0, 4)


@settings(deadline=None)
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.lists(fractions, min_size=4, max_size=4))
def test_rescaling_undoes_itself_and_agrees_with_fractions(
    here: tuple[int, int], there: tuple[int, int], corners: list[float]
) -> None:
    box = np.array([corners]) * np.array([*here, *here])
    moved = rescale_boxes(box, here, there)
    assert_allclose(moved, np.array([corners]) * np.array([*there, *there]), atol=1e-6)
    assert_allclose(rescale_boxes(moved, there, here), box, atol=1e-6)


def test_misuse_is_said_at_once() -> None:
    for size in ((0, 10, 8), (10, 0, 8), (10, 10, 0)):
        with pytest.raises(ValueError, match="positive"):
            Letterbox(*size)
    with pytest.raises(ValueError, match="positive"):
        rescale_boxes([[0, 0, 1, 1]], (0, 1), (1, 1))
    for wrong in ([1, 2, 3, 4], [[1, 2], [3, 4]], np.zeros((1, 1, 4))):
        with pytest.raises(ValueError, match="K, 4"):
            Letterbox(10, 20, 8).to_input(wrong)
