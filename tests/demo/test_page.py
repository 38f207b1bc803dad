"""What one visitor's steps ask of the model and do to the page, without a browser and without a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from demo_fake import FakePredictor
from gradio.route_utils import delete_files_created_by_app
from PIL import Image

from cxr_mtl.data.read import read_image
from cxr_mtl.demo import page as page_module
from cxr_mtl.demo import picture, present, visit
from cxr_mtl.demo.page import Page, look
from cxr_mtl.demo.visit import KEEP_SECONDS, SWEEP_SECONDS, Judged, judge
from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.types import DEFAULT_OPTIONS, Options, Prediction

VISITOR: Any = SimpleNamespace(session_hash="one")


class Leaving(FakePredictor):
    """A server that answers until it is away."""

    away = False

    def predict(
        self, sources: Sequence[Path | bytes], options: Options = DEFAULT_OPTIONS
    ) -> list[Prediction | ImageError]:
        if self.away:
            raise ServeError("No server answers.", hint="Start it.")
        return super().predict(sources, options)


@pytest.fixture(scope="module")
def built() -> Page:
    page = Page(Leaving(), [], "the server at http://far", slow=True)
    page.build("test")
    return page


@pytest.fixture
def page(built: Page) -> Iterator[Page]:
    """With no visit before or after."""
    yield built
    built.visits.end("one")


@pytest.fixture
def films(tmp_path: Path) -> list[str]:
    """Two uploads, each in a folder of its own as Gradio has them."""
    noise = np.random.default_rng(0).integers(40, 200, (90, 130)).astype(np.uint8)
    made = [tmp_path / name / "film.png" for name in ("a", "b")]
    for path in made:
        path.parent.mkdir()
        Image.fromarray(noise).resize((390, 270), Image.Resampling.BICUBIC).save(path)
    return [str(path) for path in made]


def drop(page: Page, films: list[str], finding: str = "") -> list[dict[Any, Any]]:
    return list(page._dropped(films, "balanced", finding, None, VISITOR))


def test_a_drop_reads_the_film_once_and_sends_its_screen_once(
    page: Page, films: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def counted(path: Path) -> Any:
        reads.append(path)
        return read_image(path)

    monkeypatch.setattr(visit, "read_image", counted)
    updates = drop(page, films[:1])
    assert len(reads) == 1, "beside the predictor's own"
    assert sum('class="stage"' in update.get(page.film, "") for update in updates) == 1
    assert "Save this picture" in updates[1][page.film]
    assert not hasattr(picture, "read_image")


def test_what_is_opened_while_films_are_judged_stays(
    page: Page, films: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "_TELL_SECONDS", 1e9)
    updates = drop(page, films)
    assert len(updates) == 3, "the drop, the film that is looked at, and the end: no list of all for each of many"
    assert page.film not in updates[-1], "a heat map opened since the drop stays"
    page._pair(1, 0, VISITOR)
    *_, last = page._again("sensitive", "", None, VISITOR)
    assert (last[page.earlier]["value"], last[page.later]["value"]) == (1, 0)


def test_files_go_by_themselves_and_answers_stay(page: Page, films: list[str]) -> None:
    assert page.blocks.delete_cache == (SWEEP_SECONDS, KEEP_SECONDS) == (60, 600)
    assert "after 11 minutes at most" in page.start.film
    drop(page, films)
    [one, other] = page.visits.of("one").films
    assert one.path.exists()
    delete_files_created_by_app(page.blocks, -1)
    assert not one.path.exists()
    assert not other.path.exists()
    update = page._look("balanced", "Effusion", None, VISITOR)
    assert "There is no heat map of Effusion: film.png is no longer here" in update[page.film]
    assert 'class="stage"' in update[page.film]
    assert "0.83" in update[page.table]
    *_, last = page._again("sensitive", "", None, VISITOR)
    assert last[page.batch].count("Still judged at the operating point balanced") == 2
    assert "Still judged" in page._look("sensitive", "", None, VISITOR)[page.film]


def test_a_server_that_went_away_takes_no_answer_with_it(page: Page, films: list[str]) -> None:
    drop(page, films)
    page.predictor._predictor.away = True  # type: ignore[attr-defined]
    pressed = page._look("balanced", "Mass", None, VISITOR)
    assert "There is no heat map of Mass: No server answers. Start it." in pressed[page.film]
    assert "not trained for it" not in pressed[page.film]
    list(page._again("specific", "", None, VISITOR))
    assert [film.note for film in page.visits.of("one").films] == [
        "Still judged at the operating point balanced: No server answers. Start it."
    ] * 2
    page.predictor._predictor.away = False  # type: ignore[attr-defined]
    list(page._again("specific", "", None, VISITOR))
    again = page.visits.of("one").films
    assert [film.answer.operating_point for film in again if isinstance(film.answer, Prediction)] == ["specific"] * 2
    assert [film.note for film in again] == ["", ""]


def test_one_film_in_two_tabs_is_two_files(page: Page, films: list[str], tmp_path: Path) -> None:
    shutil.copy(films[0], tmp_path / "kept.png")
    drop(page, films[:1])
    shutil.copy(tmp_path / "kept.png", films[0])
    list(page._dropped(films[:1], "balanced", "", None, SimpleNamespace(session_hash="other")))  # type: ignore[arg-type]
    page.visits.end("other")
    [film] = page.visits.of("one").films
    assert film.path.exists()
    page.visits.end("one")
    assert list(tmp_path.parent.glob("visit_*/**/film.png")) == []


def test_a_film_without_an_answer_is_asked_for_when_dropped_again(page: Page, films: list[str], tmp_path: Path) -> None:
    shutil.copy(films[0], tmp_path / "kept.png")
    page.predictor._predictor.away = True  # type: ignore[attr-defined]
    drop(page, films[:1])
    page.predictor._predictor.away = False  # type: ignore[attr-defined]
    shutil.copy(tmp_path / "kept.png", films[0])
    drop(page, films[:1])
    [film] = page.visits.of("one").films
    assert isinstance(film.answer, Prediction)


def test_the_page_says_where_a_film_goes_and_offers_what_there_is(page: Page) -> None:
    assert "nowhere but to the server at http://far." in page.start.film
    assert "stays on the machine" not in page.start.film
    assert "press an example" not in page.start.film
    assert "press an example" in present.blank("x", examples=True).film


def test_a_bad_option_is_no_fault_of_the_film(films: list[str]) -> None:
    class Picky(FakePredictor):
        def predict(
            self, sources: Sequence[Path | bytes], options: Options = DEFAULT_OPTIONS
        ) -> list[Prediction | ImageError]:
            return [ImageError("No such point.", code="bad_request", hint="Choose.", status=400)]

    film = judge(Picky(), Judged(Path(films[0]), "film.png"), Options("f1"))
    assert "No answer" in look(Picky(), film, "f1").film
    assert "not judged" not in look(Picky(), film, "f1").film
