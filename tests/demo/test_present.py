"""What the page says of a prediction."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from demo_fake import FINDINGS, make_film, make_heatmap, make_prediction
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_mtl.demo import present
from cxr_mtl.demo.film import film_html
from cxr_mtl.demo.rows import NO_FLAG, rows, summary, trained
from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.types import DISCLAIMER, FindingCall, Node, Options, ScoredBox

FILM = make_film()
PREDICTION = make_prediction(FILM)
EVIL = "<script>alert(1)</script>\" onload='x' ${1+1} {{x}}"
VOID = {"img", "line", "rect", "br"}


class Page(HTMLParser):
    """Elements in order as (tag, attributes, text inside); refuses HTML that does not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text: list[str] = []
        self.found.append((tag, dict(attrs), text))
        if tag not in VOID:
            self._open.append((tag, text))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag

    def handle_data(self, data: str) -> None:
        for _, text in self._open:
            text.append(data)

    def all(self, tag: str, kind: str = "") -> list[tuple[dict[str, str | None], str]]:
        wanted = set(kind.split())
        return [
            (attrs, "".join(text))
            for name, attrs, text in self.found
            if name == tag and wanted <= set((attrs.get("class") or "").split())
        ]


def cells(html: str) -> dict[str, list[str]]:
    """The table's rows by finding."""
    body = html[html.index("<tbody>") :].replace("</tr>", "</tr>\n")
    found = {}
    for line in body.splitlines():
        if "<th" in line:
            page = Page(re.search(r"<tr.*</tr>", line)[0])  # type: ignore[index]
            found[page.all("th")[0][1]] = [text for _, text in page.all("td")]
    return found


def picture(url: str | None) -> Image.Image:
    assert url is not None
    kind, data = url.split(";base64,")
    assert kind in {"data:image/jpeg", "data:image/png"}
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_table_says_all_of_each_finding() -> None:
    assert cells(present.table_html(rows(PREDICTION))) == {
        "Effusion": ["0.83", "0.41", "flagged", "1"],
        "Mass": ["0.12", "0.090", "flagged", "1"],
        "No Finding": ["0.97", "0.50", "above threshold", "–"],
        "Pneumonia": ["0.031", "0.42", "not flagged", "–"],
        "Hernia": ["–", "–", "not trained", "–"],
    }


def test_flagged_first_then_likely_then_untrained() -> None:
    assert [row.name for row in rows(PREDICTION)] == ["Effusion", "Mass", "No Finding", "Pneumonia", "Hernia"]


def test_a_likely_normal_film_is_no_flag() -> None:
    only = replace(PREDICTION, findings=(FINDINGS[0], FINDINGS[4]), boxes=())
    assert not any(row.flagged for row in rows(only))
    assert summary(only) == f"{NO_FLAG} No boxes."
    assert "flagged" not in {attrs["class"] for attrs, _ in Page(present.table_html(rows(only))).all("tr") if attrs}


@given(
    st.lists(
        st.tuples(st.sampled_from(["positive", "negative", "not_trained"]), st.floats(0, 1), st.floats(0, 1)),
        max_size=12,
    )
)
def test_any_answer_has_one_row_a_finding_and_no_number_where_untrained(calls: list[tuple[str, float, float]]) -> None:
    findings = tuple(
        FindingCall(f"F{i}", call) if call == "not_trained" else FindingCall(f"F{i}", call, p, t)
        for i, (call, p, t) in enumerate(calls)
    )
    prediction = replace(PREDICTION, findings=findings, boxes=())
    told = cells(present.table_html(rows(prediction)))
    assert set(told) == {call.name for call in findings}
    for call in findings:
        probability, threshold, words, _ = told[call.name]
        assert words == {"positive": "flagged", "negative": "not flagged", "not_trained": "not trained"}[call.call]
        assert (probability == threshold == "–") == (call.call == "not_trained")
        assert probability not in {"0.00", "1.00"}


def test_a_finding_is_a_button_unless_untrained() -> None:
    buttons = Page(present.table_html(rows(PREDICTION), "Mass")).all("button")
    pressed = {attrs["data-finding"]: attrs["aria-pressed"] for attrs, _ in buttons}
    assert pressed == {"Effusion": "false", "Mass": "true", "No Finding": "false", "Pneumonia": "false"}


def test_choices_of_heat_maps() -> None:
    assert trained(PREDICTION.to_dict()) == ["No Finding", "Effusion", "Mass", "Pneumonia"]
    assert trained(None) == trained({"error": {"code": "x"}}) == []


def test_tree_puts_a_node_under_each_parent() -> None:
    html = present.tree_html(PREDICTION)
    names = [text for _, text in Page(html).all("span", "name")]
    assert names == ["Lung", "Pneumonia", "Tuberculosis", "Pleural", "Effusion", "Tuberculosis"]
    text = " ".join(text for _, text in Page(html).all("div", "cxr-tree"))
    assert text.count("not trained") == 2
    assert "0.92 given Pleural" in text


def test_tree_opens_what_leads_to_a_flag() -> None:
    nodes = (Node("Top", (), 0.9, 0.9), Node("A", ("Top",), 0.8, 0.9), Node("Effusion", ("A",), 0.7, 0.9))
    nodes += (Node("B", ("Top",), 0.1, 0.1), Node("Pneumonia", ("B",), 0.1, 0.9))
    opened = Page(present.tree_html(replace(PREDICTION, hierarchy=nodes))).all("details")
    assert {text.split("0")[0]: "open" in attrs for attrs, text in opened} == {"Top": True, "A": True, "B": False}


def test_boxes_stand_in_the_films_own_pixels() -> None:
    page = Page(film_html(FILM, PREDICTION, None))
    [(svg, _)] = page.all("svg")
    # Attribute names come in lower case from the parser; the browser mends SVG's.
    assert svg["viewbox"] == "0 0 300 200"
    outlines = [attrs for attrs, _ in page.all("rect") if attrs.get("class") != "rim"]
    drawn = {tuple(float(attrs[k] or "nan") for k in ("x", "y", "width", "height")) for attrs in outlines}
    assert drawn == {(30.0, 100.0, 60.0, 80.0), (180.0, 20.0, 30.0, 20.0)}
    assert len({(attrs["stroke"], attrs["stroke-dasharray"]) for attrs in outlines}) == 2


def test_the_film_is_shown_as_read() -> None:
    [(film, _)] = Page(film_html(FILM, PREDICTION, None)).all("img", "film")
    shown = picture(film["src"])
    assert shown.mode == "L"
    assert shown.width / shown.height == pytest.approx(1.5, abs=0.01)
    expected = Image.fromarray((FILM.pixels * 255).astype(np.uint8)).resize(shown.size)
    assert np.abs(np.asarray(shown, dtype=float) - np.asarray(expected, dtype=float)).mean() < 2
    assert "Effusion 0.83" in (film["alt"] or "")
    assert "bottom left" in (film["alt"] or "")


def test_no_heat_map_unless_asked() -> None:
    html = film_html(FILM, make_prediction(FILM, Options(heatmaps=("Effusion",))), None)
    assert not Page(html).all("img", "heat")
    assert "sensitive" not in html


def test_one_heat_map_with_its_caption_and_the_others_dimmed() -> None:
    prediction = make_prediction(FILM, Options(heatmaps=("Effusion",)))
    page = Page(present.answered(FILM, prediction, "Effusion", 0.1).film)
    [(heat, _)] = page.all("img", "heat")
    alpha = np.asarray(picture(heat["src"]))[..., 3]
    width = alpha.shape[1]
    assert alpha[:, : width // 4].min() > 100
    assert alpha[:, width // 2 :].max() == 0
    assert "where the score of Effusion is sensitive, not where disease is" in page.all("figcaption")[0][1]
    assert [text for _, text in page.all("span", "tag dim")] == ["Mass 0.31"]


def test_an_empty_heat_map_is_said_to_be_empty() -> None:
    heat = make_heatmap("Mass", np.zeros((10, 10)))
    page = Page(film_html(FILM, replace(PREDICTION, heatmaps=(heat,)), heat, "Mass"))
    assert "is empty" in page.all("figcaption")[0][1]


def test_a_missing_heat_map_is_said_to_be_missing() -> None:
    screen = present.answered(FILM, make_prediction(FILM, Options(heatmaps=("Hernia",))), "Hernia", 0.1)
    assert "no heat map of Hernia" in Page(screen.film).all("figcaption")[0][1]
    assert not Page(screen.film).all("span", "tag dim")


_AT = re.compile(r"(left|right|top|bottom):(-?[\d.]+)%")


def tag_rects(html: str, width: float, height: float) -> list[tuple[float, float, float, float]]:
    """The labels' rectangles on a film shown ``width`` by ``height``, with the sizes the style sheet gives them."""
    rects = []
    for attrs, text in Page(html).all("span", "tag"):
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
    html = film_html(make_film(w, h), replace(PREDICTION, boxes=boxes), None)
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
    html = film_html(make_film(60, 60), replace(PREDICTION, boxes=boxes), None)
    for side in (300, 900):
        [label] = tag_rects(html, side, side)
        across = max(label[0] - x2 * side, x1 * side - label[2], 0)
        down = max(label[1] - y2 * side, y1 * side - label[3], 0)
        assert max(across, down) < 1


def test_names_cannot_inject_html() -> None:
    prediction = replace(
        PREDICTION,
        findings=(FindingCall(EVIL, "positive", 0.5, 0.4),),
        hierarchy=(Node(EVIL, (), 0.5, 0.5), Node("x", (EVIL,), None, None)),
        boxes=(ScoredBox(EVIL, 0.5, (1, 1, 50, 50)),),
        warnings=(EVIL,),
        model={"name": EVIL},
    )
    screen = present.answered(FILM, prediction, EVIL, 0.1)
    refused = present.refused(ImageError(EVIL, code=EVIL, hint=EVIL))
    for html in (screen.film, screen.table, screen.tree, screen.facts, refused.film):
        page = Page(html)
        assert not page.all("script")
        assert not any("onload" in attrs for _, attrs, _ in page.found)
    assert [text for _, text in Page(screen.table).all("button")] == [EVIL]


def test_screen_hands_on_the_contract_unchanged() -> None:
    assert present.answered(FILM, PREDICTION, None, 0.1).body == PREDICTION.to_dict()


def test_refusal_says_what_and_what_to_do() -> None:
    error = ImageError("film.png is truncated.", code="truncated", hint="Export it again.")
    screen = present.refused(error)
    [(alert, text)] = Page(screen.film).all("div", "cxr-refusal")
    assert alert["role"] == "alert"
    assert "film.png is truncated." in text
    assert "Export it again." in text
    assert screen.body == error.to_dict()
    assert (screen.table, screen.tree, screen.facts) == ("", "", "")


def test_a_server_that_is_away_is_no_fault_of_the_film() -> None:
    screen = present.refused(ServeError("No server answers at x.", hint="Start it."))
    assert screen.body == {"error": {"code": "serve_error", "message": "No server answers at x.", "hint": "Start it."}}
    assert "not judged" not in screen.film


def test_facts_tell_of_inversion_and_notes() -> None:
    film = replace(FILM, format="dicom", inverted=True, notes=("Window 2048/4096 applied.",))
    facts = present.facts_html(make_prediction(film), 1.234)
    for said in ("300 × 200 px, dicom", "MONOCHROME1", "Window 2048/4096 applied.", "1.23 s", "f" * 64):
        assert said in facts


def test_disclaimer_is_in_the_banner_and_nothing_leaves_the_page() -> None:
    screen = present.answered(FILM, PREDICTION, None, 0.1)
    assert DISCLAIMER in present.banner_html()
    for html in (screen.film, screen.table, screen.tree, screen.facts, present.banner_html(), present.blank().film):
        assert not re.search(r"(src|href|url)\W{0,2}\W?https?:", html)
        assert "//" not in re.sub(r"base64,[\w+/=]+", "", html)
