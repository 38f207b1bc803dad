"""What the page says of a prediction."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import astuple, replace
from pathlib import Path

import pydicom
import pytest
from demo_fake import FINDINGS, make_film, make_prediction
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.demo import present
from cxr_mtl.demo.facts import facts_html, header_html
from cxr_mtl.demo.film import film_html
from cxr_mtl.demo.picture import make_picture
from cxr_mtl.demo.rows import FEW, NO_FLAG, error_body, rows, summary, trained
from cxr_mtl.demo.tree import COHERENT, INCOHERENT, tree_html
from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.types import DISCLAIMER, FindingCall, Node, ScoredBox

FILM = make_film()
PICTURE = make_picture(FILM)
PREDICTION = make_prediction(FILM)
EVIL = "<script>alert(1)</script>\" onload='x' ${1+1} {{x}}"


def cells(html: str) -> dict[str, list[str]]:
    """The table's rows by finding."""
    body = html[html.index("<tbody>") :].replace("</tr>", "</tr>\n")
    found = {}
    for line in body.splitlines():
        if "<th" in line:
            page = Page(re.search(r"<tr.*</tr>", line)[0])  # type: ignore[index]
            found[page.all("th")[0][1]] = [text for _, text in page.all("td")]
    return found


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
    html = present.table_html(rows(prediction))
    told, silent = cells(html), [call.name for call in findings if call.call == "not_trained"]
    if len(silent) > FEW:  # they share a line
        [line] = [text for attrs, text in Page(html).all("td") if "colspan" in attrs]
        assert line == f"not trained: {', '.join(silent)}"
        findings = tuple(call for call in findings if call.call != "not_trained")
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
    html = tree_html(PREDICTION)
    names = [text for _, text in Page(html).all("span", "name")]
    assert names == ["Lung", "Pneumonia", "Tuberculosis", "Pleural", "Effusion", "Tuberculosis"]
    text = " ".join(text for _, text in Page(html).all("div", "cxr-tree"))
    assert text.count("not trained") == 2
    assert "0.92 given Pleural" in text


def test_the_tree_claims_coherence_only_where_it_holds() -> None:
    assert COHERENT in tree_html(PREDICTION)
    flat = (Node("Lung", (), 0.2, 0.2), Node("Mass", ("Lung",), 0.3, 0.9))
    told = tree_html(replace(PREDICTION, hierarchy=flat))
    assert COHERENT not in told
    assert INCOHERENT in told
    assert COHERENT in tree_html(
        replace(PREDICTION, hierarchy=(Node("A", (), None, None), Node("B", ("A",), 0.3, 0.3)))
    )


@pytest.mark.parametrize(
    ("sets", "name"),
    [
        (None, "Plain^Name"),
        (["ISO_IR 100"], "Müller^Jürgen"),
        (["ISO_IR 192"], "Müller^王"),
        (["ISO_IR 144"], "Люкceмбypг"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
)
def test_a_header_is_read_in_its_own_character_set(sets: list[str] | None, name: str, tmp_path: Path) -> None:
    film = pydicom.Dataset()
    if sets:
        film.SpecificCharacterSet = sets
    film.PatientName, film.Rows, film.StudyDescription = name, 1, "x"
    film.PixelData = b"\0\0"
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    film["PixelData"].VR = "OW"
    pydicom.dcmwrite(tmp_path / "film.dcm", film, enforce_file_format=False)
    assert f"<dd>{name}</dd>" in header_html(tmp_path / "film.dcm")


def test_many_untrained_share_a_line_of_the_tree_which_names_each() -> None:
    nodes = [Node(f"U{i}", (), None, None) for i in range(FEW)] + [Node("Below", ("U0",), None, None)]
    assert len(Page(tree_html(replace(PREDICTION, hierarchy=tuple(nodes)))).all("li")) == FEW + 1
    nodes += [Node("Last", (), None, None), Node("Effusion", (), 0.8, 0.8)]
    page = Page(tree_html(replace(PREDICTION, hierarchy=tuple(nodes))))
    assert [text for _, text in page.all("span", "name")] == ["Effusion"]
    assert page.all("p", "untrained")[0][1] == "not trained: U0, Below, U1, U2, U3, U4, U5, Last"


def test_tree_opens_what_leads_to_a_flag() -> None:
    nodes = (Node("Top", (), 0.9, 0.9), Node("A", ("Top",), 0.8, 0.9), Node("Effusion", ("A",), 0.7, 0.9))
    nodes += (Node("B", ("Top",), 0.1, 0.1), Node("Pneumonia", ("B",), 0.1, 0.9))
    page = Page(tree_html(replace(PREDICTION, hierarchy=nodes)))
    assert len(page.all("li", "leads")) == 3, "the strong line goes from the top to the flag"
    opened = page.all("details")
    assert {text.split("0")[0].strip(): "open" in attrs for attrs, text in opened} == {
        "Top": True,
        "A": True,
        "B": False,
    }


def test_names_cannot_inject_html() -> None:
    prediction = replace(
        PREDICTION,
        findings=(FindingCall(EVIL, "positive", 0.5, 0.4),),
        hierarchy=(Node(EVIL, (), 0.5, 0.5), Node("x", (EVIL,), None, None)),
        boxes=(ScoredBox(EVIL, 0.5, (1, 1, 50, 50)),),
        warnings=(EVIL,),
        model={"name": EVIL},
    )
    screen = present.answered(PICTURE, prediction, EVIL, 0.1)
    refused = present.refused(ImageError(EVIL, code=EVIL, hint=EVIL))
    for html in (screen.film, screen.table, screen.tree, screen.facts, refused.film):
        page = Page(html)
        assert not page.all("script")
        assert not any("onload" in attrs for _, attrs, _ in page.found)
    assert [text for _, text in Page(screen.table).all("button")] == [EVIL]
    assert not Page(screen.curtain).all("script")


def test_the_saved_answer_is_the_contract_unchanged() -> None:
    [(link, _)] = Page(facts_html(PREDICTION, 0.1)).all("a", "save")
    assert json.loads(base64.b64decode((link["href"] or "").split(",")[1])) == PREDICTION.to_dict()


def test_refusal_says_what_and_what_to_do() -> None:
    error = ImageError("film.png is truncated.", code="truncated", hint="Export it again.")
    screen = present.refused(error)
    [(alert, text)] = Page(screen.film).all("div", "cxr-refusal")
    assert alert["role"] == "alert"
    assert "film.png is truncated." in text
    assert "Export it again." in text
    assert error_body(error) == error.to_dict()
    assert (screen.table, screen.tree) == ("", "")


def test_a_server_that_is_away_is_no_fault_of_the_film() -> None:
    error = ServeError("No server answers at x.", hint="Start it.")
    screen = present.refused(error)
    assert error_body(error) == {
        "error": {"code": "serve_error", "message": "No server answers at x.", "hint": "Start it."}
    }
    assert "not judged" not in screen.film


def test_facts_tell_of_inversion_and_notes() -> None:
    film = replace(FILM, format="dicom", inverted=True, notes=("Window 2048/4096 applied.",))
    facts = facts_html(make_prediction(film), 1.234)
    assert "MONOCHROME1" in Page(film_html(make_picture(film), make_prediction(film), None)).all("figcaption")[0][1]
    for said in ("300 × 200 px, dicom", "MONOCHROME1", "Window 2048/4096 applied.", "1.23 s, with any wait", "f" * 64):
        assert said in facts


def test_disclaimer_is_in_the_banner_and_nothing_leaves_the_page() -> None:
    screen = present.answered(PICTURE, PREDICTION, None, 0.1)
    assert DISCLAIMER in present.banner_html()
    texts = (screen.film, screen.table, screen.tree, screen.facts, screen.curtain, present.banner_html())
    for html in (*texts, *astuple(present.blank()), *astuple(present.waiting())):
        assert not re.search(r"(src|href|url)\W{0,2}\W?https?:", html)
        assert "//" not in re.sub(r"base64,[\w+/=]+", "", html)
