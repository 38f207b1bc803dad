"""The page in a real browser: what a visitor does with mouse, finger and keys."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from cxr_mtl.demo import app
from cxr_mtl.predict.remote import RemotePredictor
from cxr_mtl.types import DISCLAIMER, Options

pytestmark = pytest.mark.slow


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    path = tmp_path / "letter.dcm"
    path.write_text("Dear colleague")
    return path


def opacity(page: Any, selector: str) -> float:
    """Once any change of it has come to its end."""
    page.wait_for_timeout(250)
    return float(page.locator(selector).first.evaluate("e => getComputedStyle(e).opacity"))


def saved(page: Any, name: str) -> bytes:
    """What a link of the page saves."""
    return base64.b64decode(page.get_by_role("link", name=name).first.get_attribute("href").split(",")[1])


def test_before_a_film_the_page_says_what_to_do_and_what_comes(site: Any) -> None:
    page = site.visit().page
    assert "Drop frontal chest films" in page.inner_text("#cxr-film")
    assert "What you will get" in page.inner_text("#cxr-table")
    assert "That does not make the film normal" in page.inner_text("#cxr-tree")
    assert page.inner_text("h1") == "Chest X-ray findings"
    assert "fake 1.0" in page.inner_text(".cxr-title")
    names = [text.replace("\n", " ") for text in page.locator("[data-example]").all_inner_texts()]
    assert names == ["Example 1 No Finding", "Example 2 Effusion, Mass"]


def test_one_film_is_shown_with_all_that_is_said_of_it(site: Any, films: list[Path]) -> None:
    visitor = site.visit()
    visitor.drop(films[0])
    page = visitor.page
    assert page.locator("#cxr-film svg g.box").count() == 2
    assert page.locator("#cxr-table tbody tr").count() == 5
    assert "Flagged: Effusion 0.83, Mass 0.12." in page.inner_text("#cxr-film figcaption")
    assert page.locator("#cxr-tree details[open]").count() == 1, "only the branch that leads to a flag is open"
    assert page.locator("#cxr-tree li.leads").count() == 2
    assert page.locator("#cxr-strip [aria-current]").inner_text().startswith("first.png")
    assert visitor.errors == []


def test_many_files_one_pass_each_and_every_one_has_its_row(
    site: Any, films: list[Path], letter: Path, real_films: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "IM000001"
    bare.write_bytes(next(real_films.glob("dicom/nih_udacity_test1*")).read_bytes())
    visitor = site.visit()
    visitor.drop(*films, letter, bare)
    assert site.predictor.asked == [Options("balanced")] * 5, "one pass a film"
    visitor.tab("Batch")
    page = visitor.page
    assert page.locator("#cxr-batch tbody tr").count() == 5
    assert "5 films: 4 with a flag, 1 refused." in page.inner_text("#cxr-batch")
    table = list(csv.DictReader(io.StringIO(saved(page, "Save as CSV").decode("utf-8-sig"))))
    assert [row["film"] for row in table] == ["first.png", "second.png", "third.png", "letter.dcm", "IM000001"]
    assert [row["status"] for row in table] == ["answered"] * 3 + ["refused", "answered"]
    assert table[0]["probability:Effusion"] == "0.8312"
    assert table[0]["call:Hernia"] == "not_trained"
    assert table[0]["probability:Hernia"] == ""
    assert "letter.dcm" in table[3]["error_message"]
    assert table[3]["hint"]
    assert table[4]["format"] == "dicom"
    assert {row["disclaimer"] for row in table} == {DISCLAIMER}
    bodies = json.loads(saved(page, "Save as JSON"))
    assert [body["film"] for body in bodies] == [row["film"] for row in table]
    assert bodies[3]["error"]["code"] == table[3]["error_code"]
    page.locator("#cxr-batch tbody button").nth(1).click()
    page.wait_for_selector("#cxr-film .stage")
    assert "second.png" in page.locator("#cxr-strip [aria-current]").inner_text()
    assert len(site.predictor.asked) == 5, "to look at a film again asks nobody"


def test_films_may_be_added_and_taken_away(site: Any, films: list[Path]) -> None:
    visitor = site.visit()
    visitor.drop(films[0])
    visitor.page.click("[data-example='1']")
    visitor.settled(2)
    assert "Example 2" in visitor.page.locator("#cxr-strip [aria-current]").inner_text()
    assert len(site.predictor.asked) == 2
    visitor.page.get_by_text("Remove all films").click()
    visitor.page.wait_for_selector("#cxr-film .cxr-blank")
    assert visitor.page.locator("#cxr-strip li").count() == 0


def test_a_refusal_says_why_and_what_to_do(site: Any, letter: Path) -> None:
    visitor = site.visit()
    visitor.drop(letter)
    alert = visitor.page.get_by_role("alert").filter(has_text="not judged")
    assert "letter.dcm" in alert.inner_text()
    assert len(alert.locator("p").nth(1).inner_text()) > 10
    assert visitor.page.inner_text("#cxr-table").strip() == ""
    visitor.tab("Details")
    assert "Bundle SHA-256" not in visitor.page.inner_text("[role=tabpanel]:visible")


def test_hover_shows_a_finding_alone_and_asks_nobody(site: Any, films: list[Path]) -> None:
    visitor = site.visit()
    visitor.drop(films[0])
    page, asked = visitor.page, len(visitor.asked)
    page.hover("#cxr-table tr[data-finding=Effusion] td >> nth=0")
    assert opacity(page, "#cxr-film g[data-finding=Mass]") < 0.2
    assert opacity(page, "#cxr-film g[data-finding=Effusion]") == 1
    page.hover("#cxr-film button[data-finding=Mass]")
    assert opacity(page, "#cxr-film g[data-finding=Effusion]") < 0.2
    page.hover("h1")
    assert opacity(page, "#cxr-film g[data-finding=Mass]") == 1
    assert len(visitor.asked) == asked


@pytest.mark.parametrize("place", ["#cxr-film button", "#cxr-table button", "#cxr-film g"])
def test_a_press_shows_a_finding_alone_with_its_heat_map(site: Any, films: list[Path], place: str) -> None:
    visitor = site.visit()
    visitor.drop(films[0])
    page = visitor.page
    page.locator(f"{place}[data-finding=Mass]").click()
    page.wait_for_selector("#cxr-film img.heat")
    assert page.locator("#cxr-film .tag.dim").all_inner_texts() == ["Effusion 0.71"]
    assert page.get_by_role("button", name="Mass", exact=True).get_attribute("aria-pressed") == "true"
    assert "not where disease is" in page.inner_text("#cxr-film figcaption")
    page.locator(f"{place}[data-finding=Mass]").click()
    page.wait_for_selector("#cxr-film img.heat", state="detached")


def test_opacity_boxes_and_filter_are_the_pages_own(site: Any, films: list[Path]) -> None:
    visitor = site.visit()
    visitor.drop(films[0])
    page = visitor.page
    page.locator("#cxr-table button[data-finding=Effusion]").click()
    page.wait_for_selector("#cxr-film img.heat")
    assert opacity(page, "#cxr-film img.heat") == pytest.approx(0.4)
    passes, asked = len(site.predictor.asked), len(visitor.asked)
    slider = page.get_by_role("slider", name="Opacity")
    slider.focus()
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    assert opacity(page, "#cxr-film img.heat") == pytest.approx(0.5)
    page.get_by_label("Show boxes").uncheck()
    assert not page.locator("#cxr-film g.box").first.is_visible()
    page.get_by_label("Show boxes").check()
    page.get_by_text("Findings to show").click()
    note = page.get_by_text("hides a finding that is flagged")
    page.get_by_label("Pneumonia", exact=True).uncheck()
    page.wait_for_function("!document.querySelector('#cxr-table tr[data-finding=Pneumonia]').checkVisibility()")
    assert not note.is_visible()
    page.get_by_label("Mass", exact=True).uncheck()
    page.wait_for_function("!document.querySelector('#cxr-table tr[data-finding=Mass]').checkVisibility()")
    assert not page.locator("#cxr-film button[data-finding=Mass]").is_visible()
    assert note.is_visible()
    assert page.locator("#cxr-table tr[data-finding=Effusion]").is_visible()
    assert (len(site.predictor.asked), len(visitor.asked)) == (passes, asked), "no round trip"


def test_another_operating_point_judges_every_film_again(site: Any, films: list[Path]) -> None:
    visitor = site.visit()
    visitor.drop(*films[:2])
    visitor.page.get_by_label("Sensitive", exact=True).check()
    visitor.page.wait_for_timeout(300)
    visitor.settled(2)
    assert site.predictor.asked[2:] == [Options("sensitive")] * 2
    visitor.tab("Details")
    assert "sensitive" in visitor.page.inner_text("[role=tabpanel]:visible dl >> nth=1")


def test_plain_film_against_overlay(site: Any, films: list[Path]) -> None:
    visitor = site.visit()
    visitor.drop(films[0])
    visitor.tab("Compare")
    page = visitor.page
    slider = page.get_by_role("slider", name="Plain share")
    slider.focus()
    for _ in range(10):
        slider.press("ArrowRight")
    clip = "getComputedStyle(document.querySelector('.curtain .over')).clipPath"
    assert "60%" in page.evaluate(clip)
    assert slider.get_attribute("aria-valuetext") == "60 % plain film"
    box = page.locator(".curtain").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert 20 <= int(slider.input_value()) <= 30


def test_two_films_of_one_patient(site: Any, films: list[Path], letter: Path) -> None:
    visitor = site.visit()
    visitor.drop(*films[:2], letter)
    visitor.tab("Compare")
    page = visitor.page
    assert "no meaning beyond it" in page.inner_text(".cxr-pair .caution")
    assert page.locator(".cxr-pair figure").count() == 2
    cells = page.locator(".cxr-pair tbody tr").first.locator("td").all_inner_texts()
    assert [text.strip() for text in cells] == ["0.83", "0.83", "less than 0.01", "flagged in both"]
    assert "Not trained: Hernia." in page.inner_text(".cxr-pair >> nth=1")
    page.get_by_label("Later film").click()
    page.get_by_role("option", name="letter.dcm").click()
    page.get_by_text("a film has no answer").wait_for()


def test_by_keyboard_alone(site: Any) -> None:
    visitor = site.visit()
    page = visitor.page

    def reach(what: str) -> None:
        """Press Tab until the focus is there."""
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("what => document.activeElement.matches(what)", what):
                return
        pytest.fail(f"Tab does not come to {what}")

    reach("#cxr-file button, button[aria-dropeffect]")
    reach("[data-example='0']")
    page.keyboard.press("Enter")
    visitor.settled(1)
    reach("[data-example='1']")
    page.keyboard.press("Enter")
    visitor.settled(2)
    reach("#cxr-strip ol button")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#cxr-strip [aria-current]').dataset.film === '0'")
    reach("[role=tab]")
    reach("#cxr-film button[data-finding=Effusion]")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    reach("#cxr-table button[data-finding=Mass]")
    assert opacity(page, "#cxr-film g[data-finding=Effusion]") < 0.2
    page.keyboard.press("Enter")
    page.wait_for_selector("#cxr-film img.heat")
    page.wait_for_function("document.activeElement.matches('#cxr-table button[data-finding=Mass]')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#cxr-film img.heat", state="detached")
    reach("#cxr-tree summary")
    page.keyboard.press("Enter")
    assert page.locator("#cxr-tree details").first.get_attribute("open") is not None


# 720 px with two device pixels a CSS pixel is what a window of 1440 px shows at 200 % zoom.
@pytest.mark.parametrize(("width", "scale"), [(360, 2), (720, 2), (1440, 1), (1920, 1)])
def test_nothing_runs_off_the_side_and_the_banner_stays(
    site: Any, films: list[Path], letter: Path, width: int, scale: int
) -> None:
    visitor = site.visit(width, 760, device_scale_factor=scale)
    assert visitor.cut_off() == []
    visitor.drop(*films, letter)
    for name in ("Film", "Compare", "Batch", "Details"):
        visitor.tab(name)
        assert visitor.cut_off() == [], name
        visitor.page.mouse.wheel(0, 5000)
        visitor.page.wait_for_timeout(100)
        assert visitor.page.get_by_text(DISCLAIMER).first.bounding_box()["y"] < 20, name
    visitor.tab("Film")
    visitor.page.evaluate(
        "document.querySelector('#cxr-table').insertAdjacentHTML('beforeend',"
        " '<div id=wide style=\"width:3000px;height:9px\">x</div>')"
    )
    assert [name.startswith("DIV#wide") for name in visitor.cut_off()] == [True], "it would be seen"
    visitor.page.evaluate("document.querySelector('#wide').remove()")
    film, table = (visitor.page.locator(f"#cxr-{part}").bounding_box() for part in ("film", "table"))
    beside = table["x"] >= film["x"] + film["width"]
    assert beside == (width >= 1200), "beside each other on a wide screen, else below"


def test_the_same_screen_on_a_servers_address(browser: Any, site: Any, films: list[Path]) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer key"
        [answer] = site.predictor.predict([films[0]])
        return httpx.Response(200, json=answer.to_dict())

    remote = RemotePredictor("https://server.invalid", "key", transport=httpx.MockTransport(serve))
    blocks = app.build(remote, slow=False)
    far = type(site)(remote, blocks, app.launch(blocks, port=None), browser)
    try:
        here, there = site.visit(), far.visit()
        for visitor in (here, there):
            visitor.drop(films[0])
        for part in ("#cxr-film", "#cxr-table", "#cxr-tree"):
            assert here.page.inner_text(part) == there.page.inner_text(part)
    finally:
        far.close()
        blocks.close(verbose=False)
