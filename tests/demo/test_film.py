"""The film on the page: where its layers lie and what they say."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from demo_fake import make_film, make_heatmap, make_prediction
from html_page import Page
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_mtl.demo import present
from cxr_mtl.demo.film import SCORES, WEAK, film_html
from cxr_mtl.demo.picture import make_picture, overlay_url
from cxr_mtl.predict.overlay import draw_overlay
from cxr_mtl.types import Options, ScoredBox

FILM = make_film()
PICTURE = make_picture(FILM)
PREDICTION = make_prediction(FILM)


def picture(url: str | None) -> Image.Image:
    assert url is not None
    kind, data = url.split(";base64,")
    assert kind in {"data:image/jpeg", "data:image/png"}
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_boxes_stand_in_the_films_own_pixels() -> None:
    page = Page(film_html(PICTURE, PREDICTION, None))
    [(svg, _)] = page.all("svg")
    # Attribute names come in lower case from the parser; the browser mends SVG's.
    assert svg["viewbox"] == "0 0 300 200"
    outlines = [attrs for attrs, _ in page.all("rect") if attrs.get("class") != "rim"]
    drawn = {tuple(float(attrs[k] or "nan") for k in ("x", "y", "width", "height")) for attrs in outlines}
    assert drawn == {(30.0, 100.0, 60.0, 80.0), (180.0, 20.0, 30.0, 20.0)}
    assert len({(attrs["stroke"], attrs["stroke-dasharray"]) for attrs in outlines}) == 2


def test_the_film_is_shown_as_read() -> None:
    [(film, _)] = Page(film_html(PICTURE, PREDICTION, None)).all("img", "film")
    shown = picture(film["src"])
    assert shown.mode == "L"
    assert shown.width / shown.height == pytest.approx(1.5, abs=0.01)
    expected = Image.fromarray((FILM.pixels * 255).astype(np.uint8)).resize(shown.size)
    assert np.abs(np.asarray(shown, dtype=float) - np.asarray(expected, dtype=float)).mean() < 2
    assert "Effusion 0.83" in (film["alt"] or "")
    assert "bottom, at the picture's left" in (film["alt"] or "")


def test_no_side_is_named_without_saying_that_it_is_the_pictures() -> None:
    w = FILM.width
    boxes = tuple(ScoredBox("Mass", 0.3, (x * w, 0.0, x * w + 9, 9.0)) for x in (0.1, 0.5, 0.9))
    said = Page(film_html(PICTURE, replace(PREDICTION, boxes=boxes), None)).all("figcaption")[0][1]
    for side in ("left", "centre", "right"):
        assert said.count(side) == said.count(f"at the picture's {side}") == 1


def test_a_box_of_what_is_not_flagged_is_pale_and_says_so() -> None:
    boxes = (ScoredBox("Effusion", 0.7, (0, 0, 9, 9)), ScoredBox("Pneumonia", 0.6, (99, 99, 140, 140)))
    page = Page(film_html(PICTURE, replace(PREDICTION, boxes=boxes), None))
    assert [text for _, text in page.all("button", "tag")] == ["Effusion 0.70", "Pneumonia 0.60, not flagged"]
    assert [text for _, text in page.all("button", "tag pale")] == ["Pneumonia 0.60, not flagged"]
    assert [attrs["data-finding"] for attrs, _ in page.all("g", "box pale")] == ["Pneumonia"]


def test_the_numbers_on_boxes_are_explained() -> None:
    assert SCORES in film_html(PICTURE, PREDICTION, None)
    assert WEAK not in film_html(PICTURE, PREDICTION, None)
    weak = tuple(replace(box, weak=True) for box in PREDICTION.boxes)
    assert WEAK in film_html(PICTURE, replace(PREDICTION, boxes=weak), None)
    assert SCORES not in film_html(PICTURE, replace(PREDICTION, boxes=()), None)


@pytest.mark.parametrize("size", [(300, 200), (1500, 1100)])
def test_the_saved_picture_is_the_one_drawn_on_the_film_itself(size: tuple[int, int]) -> None:
    film = make_film(*size)
    prediction = make_prediction(film, Options(heatmaps=("Effusion",)))
    for heatmap in (None, "Effusion"):
        expected = np.asarray(draw_overlay(film, prediction, heatmap=heatmap), dtype=float)
        saved = np.asarray(picture(overlay_url(make_picture(film), prediction, heatmap)), dtype=float)
        assert saved.shape == expected.shape
        assert np.abs(saved - expected).mean() < 2


def test_no_heat_map_unless_asked() -> None:
    html = film_html(PICTURE, make_prediction(FILM, Options(heatmaps=("Effusion",))), None)
    assert not Page(html).all("img", "heat")
    assert "sensitive" not in html


def test_one_heat_map_with_its_caption_and_the_others_dimmed() -> None:
    prediction = make_prediction(FILM, Options(heatmaps=("Effusion",)))
    page = Page(present.answered(PICTURE, prediction, "Effusion", 0.1).film)
    [(heat, _)] = page.all("img", "heat")
    alpha = np.asarray(picture(heat["src"]))[..., 3]
    width = alpha.shape[1]
    assert alpha[:, : width // 4].min() > 100
    assert alpha[:, width // 2 :].max() == 0
    assert "where the score of Effusion is sensitive, not where disease is" in page.all("figcaption")[0][1]
    assert [text for _, text in page.all("button", "tag dim")] == ["Mass 0.31"]
    assert {a["data-finding"]: a["aria-pressed"] for a, _ in page.all("button")} == {
        "Effusion": "true",
        "Mass": "false",
    }


def test_an_empty_heat_map_is_said_to_be_empty() -> None:
    heat = make_heatmap("Mass", np.zeros((10, 10)))
    page = Page(film_html(PICTURE, replace(PREDICTION, heatmaps=(heat,)), heat, "Mass"))
    assert "is empty" in page.all("figcaption")[0][1]


def test_a_missing_heat_map_is_said_to_be_missing() -> None:
    screen = present.answered(PICTURE, make_prediction(FILM, Options(heatmaps=("Hernia",))), "Hernia", 0.1)
    assert "no heat map of Hernia" in Page(screen.film).all("figcaption")[0][1]
    assert not Page(screen.film).all("button", "tag dim")


_AT = re.compile(r"(left|right|top|bottom):(-?[\d.]+)%")


def tag_rects(html: str, width: float, height: float) -> list[tuple[float, float, float, float]]:
    """The labels' rectangles on a film shown ``width`` by ``height``, with the sizes the style sheet gives them."""
    rects = []
    for attrs, text in Page(html).all("button", "tag"):
        at = {side: float(part) / 100 for side, part in _AT.findall(attrs["style"] or "")}
        w, h = len(text) * 7.0 + 12, 19.0
        x = at["left"] * width if "left" in at else width * (1 - at["right"]) - w
        y = at["top"] * height if "top" in at else height * (1 - at["bottom"]) - h
        rects.append((x, y, x + w, y + h))
    return rects


def crossing(rects: list[tuple[float, float, float, float]]) -> int:
    pairs = [(a, b) for i, a in enumerate(rects) for b in rects[i + 1 :]]
    slack = 0.2  # percent are rounded to two digits
    return sum(
        min(a[2], b[2]) - max(a[0], b[0]) > slack and min(a[3], b[3]) - max(a[1], b[1]) > slack for a, b in pairs
    )


corner = st.tuples(st.floats(0, 0.8), st.floats(0, 0.8), st.floats(0.02, 0.9), st.floats(0.02, 0.9))


@settings(max_examples=30)  # each example encodes pictures
@given(st.lists(corner, max_size=6), st.sampled_from([(60, 60), (60, 80), (100, 70)]))
def test_labels_apart_on_a_phone_are_apart_on_a_desk(
    corners: list[tuple[float, float, float, float]], size: tuple[int, int]
) -> None:
    w, h = size
    boxes = tuple(
        ScoredBox("Mass", 0.5, (x * w, y * h, min(1, x + dx) * w, min(1, y + dy) * h)) for x, y, dx, dy in corners
    )
    html = film_html(make_picture(make_film(w, h)), replace(PREDICTION, boxes=boxes), None)
    on_phone = tag_rects(html, 300, 300 * h / w)
    assert all(x1 >= -0.1 and x2 <= 300.1 and y1 >= -0.1 and y2 <= 300 * h / w + 0.1 for x1, y1, x2, y2 in on_phone)
    assert crossing(tag_rects(html, 900, 900 * h / w)) <= crossing(on_phone)


@settings(max_examples=40)
@example((0.8, 0.5, 0.02, 0.02))
@example((0.0, 0.0625, 0.5, 0.5))
@given(corner)
def test_a_lone_label_stays_at_its_box_on_any_screen(place: tuple[float, float, float, float]) -> None:
    x1, y1, x2, y2 = place[0], place[1], min(1, place[0] + place[2]), min(1, place[1] + place[3])
    boxes = (ScoredBox("Mass", 0.5, (x1 * 60, y1 * 60, x2 * 60, y2 * 60)),)
    html = film_html(make_picture(make_film(60, 60)), replace(PREDICTION, boxes=boxes), None)
    for side in (300, 900):
        [label] = tag_rects(html, side, side)
        across = max(label[0] - x2 * side, x1 * side - label[2], 0)
        down = max(label[1] - y2 * side, y1 * side - label[3], 0)
        assert max(across, down) < 1
