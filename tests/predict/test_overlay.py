"""The picture with boxes and heat map."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_mtl.errors import ConfigError
from cxr_mtl.predict.marks import box_styles, format_number, place_labels
from cxr_mtl.predict.overlay import draw_overlay, heat_caption, heat_layer
from cxr_mtl.types import FindingCall, Heatmap, Prediction, Radiograph, ScoredBox

NAMES = [f"F{i}" for i in range(20)]


def make_film(width: int, height: int, value: float = 0.5) -> Radiograph:
    return Radiograph(np.full((height, width), value, dtype=np.float32), "png", False, "0" * 64)


def make_heatmap(values: np.ndarray, finding: str = "F0") -> Heatmap:
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, "png")
    return Heatmap(finding, base64.b64encode(stream.getvalue()).decode(), "grad_cam")


def make_prediction(boxes: list[ScoredBox], *heatmaps: Heatmap) -> Prediction:
    findings = tuple(FindingCall(name, "negative", 0.1, 0.5) for name in NAMES)
    return Prediction({}, {}, "balanced", findings, (), tuple(boxes), heatmaps=heatmaps)


@pytest.mark.parametrize("size", [(1000, 600), (2000, 1200), (600, 1000)])
def test_a_box_is_drawn_where_it_is(size: tuple[int, int]) -> None:
    w, h = size
    box = ScoredBox("F0", 0.9, (0.2 * w, 0.5 * h, 0.3 * w, 0.8 * h))
    picture = draw_overlay(make_film(w, h), make_prediction([box]), max_side=1000)
    colour = np.array(box_styles(make_prediction([box]))["F0"].colour)
    coloured = (np.asarray(picture) == colour).all(axis=2)
    film_w, film_h = round(w * 1000 / max(w, h)), round(h * 1000 / max(w, h))
    # Below the middle of the box there is no label.
    low = coloured.copy()
    low[: round(0.6 * film_h)] = False
    rows, columns = np.nonzero(low)
    assert (columns.min(), columns.max()) == (round(0.2 * film_w), round(0.3 * film_w))
    assert rows.max() == round(0.8 * film_h)
    middle = coloured[round(0.7 * film_h)]
    assert middle.sum() <= 10, "an outline, not a filled box"


def test_no_heat_and_no_boxes_leave_the_film_alone() -> None:
    film = make_film(700, 600)
    zero = make_heatmap(np.zeros((60, 70)))
    plain = draw_overlay(film, make_prediction([]))
    assert np.asarray(plain)[:600].min() == np.asarray(plain)[:600].max() == 128
    heated = draw_overlay(film, make_prediction([], zero), heatmap="F0")
    assert (np.asarray(heated)[:600] == 128).all()
    assert "is empty" in heat_caption(zero)


def test_heat_covers_the_whole_film_and_only_where_it_is() -> None:
    values = np.zeros((20, 40))
    values[:, 30:] = 255
    picture = np.asarray(draw_overlay(make_film(800, 600), make_prediction([], make_heatmap(values)), heatmap="F0"))
    assert (picture[:600, :560] == 128).all()
    assert (picture[:600, 640:] != 128).any(axis=2).all()
    assert "is sensitive, not where disease is" in heat_caption(make_heatmap(values))


def test_a_weak_map_looks_weak() -> None:
    weak, strong = (np.asarray(heat_layer(make_heatmap(np.full((4, 4), v)), (8, 8))) for v in (40, 240))
    assert weak[..., 3].max() == 40
    assert strong[..., 3].max() == 240


def test_colours_are_viridis() -> None:
    values = np.arange(256, dtype=np.uint8)[None]
    ours = np.asarray(heat_layer(make_heatmap(values), (256, 1)))[0, :, :3] / 255
    theirs = matplotlib.colormaps["viridis"](np.arange(256))[:, :3]
    assert np.abs(ours - theirs).max() < 0.08
    assert np.abs(ours - theirs).mean() < 0.01


def test_a_heat_map_that_was_not_asked_for_is_named() -> None:
    with pytest.raises(ConfigError, match="no heat map of 'F1'"):
        draw_overlay(make_film(600, 600), make_prediction([], make_heatmap(np.ones((2, 2)))), heatmap="F1")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((3000, 2000), (1024, 683)), ((700, 600), (700, 600)), ((64, 48), (512, 384)), ((20, 2000), (10, 1024))],
)
def test_size_and_strip(size: tuple[int, int], expected: tuple[int, int]) -> None:
    box = ScoredBox("A long name of a finding", 0.5, (0, 0, size[0] / 2, size[1] / 2))
    picture = draw_overlay(make_film(*size), make_prediction([box]))
    assert picture.mode == "RGB"
    assert picture.width == expected[0]
    strip = np.asarray(picture)[expected[1] :]
    assert strip.shape[0] >= 20
    assert strip.max() > 200, "the strip has words"


@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=14))
def test_findings_of_a_film_look_different(names: set[str]) -> None:
    styles = box_styles(make_prediction([ScoredBox(name, 0.5, (0, 0, 9, 9)) for name in names]))
    assert set(styles) == names
    looks = {(style.colour, style.dash) for style in styles.values()}
    assert len(looks) == len(names)
    assert len({style.colour for style in styles.values()}) == min(len(names), 7)


@given(st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_a_finding_keeps_its_colour_from_film_to_film(a: str, b: str) -> None:
    box_a, box_b = (ScoredBox(name, 0.5, (0, 0, 9, 9)) for name in (a, b))
    alone, both = box_styles(make_prediction([box_a])), box_styles(make_prediction([box_b, box_a]))
    if NAMES.index(a) % 7 != NAMES.index(b) % 7:
        assert alone[a] == both[a]


@given(st.floats(0, 1), st.floats(0, 1))
def test_numbers_have_two_digits_and_keep_their_order(a: float, b: float) -> None:
    for value in (a, b):
        text = format_number(value)
        assert text not in {"0.00", "1.00"}
        if text[0] not in "<>":
            assert float(text) == pytest.approx(value, rel=0.06)
            assert len(text.removeprefix("0.").lstrip("0")) <= 2
    low, high = (float(format_number(v).lstrip("<>")) for v in sorted((a, b)))
    assert low <= high


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, ">0.99"), (0.8349, "0.83"), (0.0962, "0.10"), (0.0621, "0.062"), (0.00621, "0.0062"), (0.0, "<0.001")],
)
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


side = st.floats(0, 500)


@given(st.lists(st.tuples(side, side, side, side), max_size=8))
def test_labels_stay_inside(corners: list[tuple[float, float, float, float]]) -> None:
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    for x1, y1, x2, y2 in place_labels(boxes, [(90, 20)] * len(boxes), (500, 500)):
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= 500
        assert y2 <= 500
        assert (x2 - x1, y2 - y1) == pytest.approx((90, 20))


def test_labels_of_the_same_place_do_not_cover_each_other() -> None:
    boxes = [(100.0, 100.0, 300.0, 300.0)] * 8
    places = place_labels(boxes, [(90, 20)] * 8, (500, 500))
    for i, a in enumerate(places):
        for b in places[i + 1 :]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(NAMES), side, side, side, side), max_size=8), st.integers(1, 700))
def test_any_boxes_can_be_drawn(found: list[tuple[str, float, float, float, float]], width: int) -> None:
    boxes = [ScoredBox(n, 0.5, (min(a, c), min(b, d), max(a, c), max(b, d))) for n, a, b, c, d in found]
    film = make_film(width, 500)
    assert draw_overlay(film, replace(make_prediction(boxes)), max_side=512).width >= 1
