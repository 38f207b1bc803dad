"""What becomes of a film in a browser: it goes nowhere else, and nothing of it stays."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.slow


def uploads() -> list[Path]:
    """Files that hold anything: Gradio leaves an empty one for each that it received."""
    files = [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()]
    return [path for path in files if path.stat().st_size]


def gone() -> bool:
    deadline = time.monotonic() + 20
    while uploads() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not uploads()


def remembered(site: Any) -> bool:
    """Whether Gradio holds a film that some page showed."""
    sessions = site.blocks.app.state_holder.session_data.values()
    return any("data:image" in repr(session.config_values) for session in sessions)


@pytest.fixture
def named(films: list[Path], tmp_path: Path) -> Path:
    """A film whose name is a patient's."""
    return Path(shutil.copy(films[0], tmp_path / "Mustermann_Erika.png"))


def test_no_other_host_is_asked(site: Any, films: list[Path]) -> None:
    visitor = site.visit()
    visitor.drop(*films)
    for name in ("Compare", "Batch", "Details", "Film"):
        visitor.tab(name)
    visitor.page.locator("#cxr-table button").first.click()
    visitor.page.wait_for_selector("#cxr-film img.heat")
    hosts = {urlsplit(url).hostname for url in visitor.asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}


def test_films_that_are_taken_away_are_deleted(site: Any, named: Path) -> None:
    visitor = site.visit()
    visitor.drop(named)
    assert [path.name for path in uploads()] == ["Mustermann_Erika.png"]
    visitor.page.get_by_text("Remove all films").click()
    visitor.page.wait_for_selector("#cxr-film .cxr-blank")
    assert gone()


def test_who_leaves_the_page_leaves_no_film(site: Any, films: list[Path]) -> None:
    visitor = site.visit()
    visitor.drop(*films[:2])
    assert len(uploads()) == 2
    assert remembered(site)
    visitor.page.close()
    assert gone()
    assert not remembered(site), "nor in memory"


def test_the_browser_keeps_nothing(site: Any, named: Path) -> None:
    visitor = site.visit()
    visitor.drop(named)
    page = visitor.page
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert "Mustermann" not in kept
    assert "Effusion" not in kept
    assert page.evaluate("indexedDB.databases().then(all => all.length)") == 0
    page.reload()
    page.wait_for_selector("#cxr-film .cxr-blank")
    assert "Mustermann" not in page.content()


def test_names_and_tags_are_not_logged(
    site: Any, named: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    letter = tmp_path / "Mustermann_Max.dcm"
    letter.write_text("Dear colleague")
    caplog.set_level("DEBUG")
    visitor = site.visit()
    visitor.drop(named, letter)
    out, err = capfd.readouterr()
    # What this test's own client and the multipart parser say of themselves at DEBUG is not the page's.
    own = [record.getMessage() for record in caplog.records if record.name.split(".")[0] not in {"asyncio"}]
    assert not [line for line in (out, err, *own) if "Mustermann" in line]


def test_tags_are_shown_when_asked_for_and_only_then(site: Any, real_films: Path, tmp_path: Path) -> None:
    import pydicom

    film = pydicom.dcmread(next(real_films.glob("dicom/nih_udacity_test1*")))
    film.PatientName = "Mustermann^Erika"
    film.save_as(tmp_path / "IM000002")
    visitor = site.visit()
    visitor.drop(tmp_path / "IM000002")
    visitor.tab("Details")
    assert "Mustermann" not in visitor.page.content()
    visitor.page.get_by_role("button", name="header").click()
    visitor.page.get_by_text("Mustermann^Erika").wait_for()
    visitor.page.locator("#cxr-strip ol button").first.click()
    visitor.page.wait_for_function("!document.body.innerText.includes('Mustermann')")


def test_two_visitors_do_not_see_each_other(site: Any, films: list[Path], named: Path) -> None:
    one, other = site.visit(), site.visit()
    one.drop(named)
    other.drop(films[1])
    other.tab("Batch")
    assert "Mustermann" not in other.page.content()
    assert other.page.locator("#cxr-batch tbody tr").count() == 1
