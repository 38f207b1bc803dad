"""The films of a visit: one pass each, none dropped, and none left behind."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from demo_fake import FakePredictor, make_film, make_prediction
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxr_mtl.demo.batch import batch_csv, batch_html, batch_json
from cxr_mtl.demo.compare import call_change, curtain_html, difference_words, pair_html
from cxr_mtl.demo.examples import NUM_EXAMPLES, examples_html, find_examples
from cxr_mtl.demo.film import film_html
from cxr_mtl.demo.picture import make_picture
from cxr_mtl.demo.rows import rows
from cxr_mtl.demo.strip import strip_html
from cxr_mtl.demo.visit import Judged, Visit, Visits, judge_waiting
from cxr_mtl.errors import ConfigError, ImageError, ServeError
from cxr_mtl.predict.admit import Novelty
from cxr_mtl.types import DEFAULT_OPTIONS, FindingCall, Options, Prediction

FILM = make_film()
PREDICTION = make_prediction(FILM)
ANSWERED = Judged(Path("a.png"), "a.png", PREDICTION, make_picture(FILM), 0.1)
REFUSED = Judged(Path("b.png"), "b.png", ImageError("b.png is a <cat>.", code="not_a_film", hint="Send a film."))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("one.png", "two.png", "three.png")]
    noise = np.random.default_rng(0).integers(40, 200, (90, 130)).astype(np.uint8)
    for path in made:
        Image.fromarray(noise).resize((390, 270), Image.Resampling.BICUBIC).save(path)
    return made


def opened(paths: Sequence[Path], *, uploaded: bool = True) -> Visit:
    visit = Visit()
    visit.add(paths, [path.name for path in paths], uploaded=uploaded)
    return visit


def test_one_pass_a_film_and_the_one_looked_at_first(paths: list[Path]) -> None:
    visit, predictor = opened(paths), FakePredictor()
    visit.at = 1
    assert list(judge_waiting(predictor, visit)) == [1, 0, 2]
    assert len(predictor.asked) == 3
    visit.add(paths[:1], ["one.png"], uploaded=True)
    assert list(judge_waiting(predictor, visit)) == []
    assert visit.at == 0
    assert len(visit.films) == 3


def test_a_second_drop_and_another_mode_while_the_first_is_judged(paths: list[Path]) -> None:
    visit, predictor = opened(paths[:2]), FakePredictor()
    first = judge_waiting(predictor, visit)
    assert next(first) == 0
    visit.add(paths[2:], ["three.png"], uploaded=True)
    assert list(judge_waiting(predictor, visit)) == [2, 1], "the second takes over what waits"
    assert list(first) == []
    assert len(predictor.asked) == 3
    again = judge_waiting(predictor, visit)
    visit.ask_again("sensitive")
    list(again)
    points = {film.answer.operating_point for film in visit.films if isinstance(film.answer, Prediction)}
    assert points == {"sensitive"}, "no film stays at the point before"


def test_a_server_that_is_away_is_asked_once_and_every_film_is_told(paths: list[Path]) -> None:
    class Away(FakePredictor):
        def predict(
            self, sources: Sequence[Path | bytes], options: Options = DEFAULT_OPTIONS
        ) -> list[Prediction | ImageError]:
            self.asked.append(options)
            raise ServeError("No server answers.", hint="Start it.")

    visit, predictor = opened(paths), Away()
    list(judge_waiting(predictor, visit))
    assert [str(film.answer) for film in visit.films] == ["No server answers. Start it."] * 3
    assert len(predictor.asked) == 1
    assert "refused" not in strip_html(visit) + batch_html(visit).replace("not judged", "")
    assert "3 without an answer" in batch_html(visit)
    assert {row["status"] for row in csv.DictReader(io.StringIO(batch_csv(visit.films)))} == {"no answer"}


def test_a_film_unlike_those_learned_from_is_marked_wherever_it_stands() -> None:
    unlike = Novelty(9.1, 99.9, 3.0).warnings
    film = replace(ANSWERED, answer=replace(PREDICTION, warnings=("Window 1/2 applied.", *unlike)))
    for html in (strip_html(Visit([film])), batch_html(Visit([film]))):
        assert [text for _, text in Page(html).all("span", "caution")] == ["unlike training films"]
    assert "caution" not in strip_html(Visit([ANSWERED])) + batch_html(Visit([ANSWERED]))
    assert film.answer is not None
    assert film.picture is not None
    caption = Page(film_html(film.picture, film.answer, None))
    [(_, warning)] = caption.all("p", "caution")
    assert warning == f"Warning: this film is {unlike[0]}"
    assert [text for _, text in caption.all("p") if text.startswith("Note")] == ["Note: Window 1/2 applied."]


def test_a_film_that_was_deleted_is_said_to_be(paths: list[Path]) -> None:
    visit = opened(paths)
    visit.films[1].path.unlink()
    list(judge_waiting(FakePredictor(), visit))
    assert "deleted 10 minutes after they came" in str(visit.films[1].answer)
    assert isinstance(visit.films[2].answer, Prediction), "its neighbours have their answers"


def test_the_end_of_a_visit_deletes_uploads_and_no_example(paths: list[Path]) -> None:
    visits = Visits()
    visits.of("session").add(paths[:2], ["a", "b"], uploaded=True)
    visits.of("session").add(paths[2:], ["c"], uploaded=False)
    visits.end("session")
    assert [path.exists() for path in paths] == [False, False, True]
    assert len(visits) == 0
    visits.end("session")


@given(st.lists(st.sampled_from(["answered", "refused"]), min_size=1, max_size=6))
def test_every_film_has_its_line_in_order(kinds: list[str]) -> None:
    films = [replace(ANSWERED if kind == "answered" else REFUSED, name=f"{i}.png") for i, kind in enumerate(kinds)]
    table = list(csv.DictReader(io.StringIO(batch_csv(films))))
    assert [(row["film"], row["status"]) for row in table] == [(f"{i}.png", kind) for i, kind in enumerate(kinds)]
    assert [body["film"] for body in json.loads(batch_json(films))] == [film.name for film in films]
    for row in table:
        assert bool(row["error_code"]) == (row["status"] == "refused")
        assert bool(row["probability:Effusion"] if "answered" in kinds else "") == (row["status"] == "answered")


def test_a_files_name_is_no_formula() -> None:
    [row] = csv.DictReader(io.StringIO(batch_csv([replace(REFUSED, name="=HYPERLINK(1)")])))
    assert row["film"] == "'=HYPERLINK(1)"


def test_batch_and_strip_escape_what_a_file_says() -> None:
    films = [replace(ANSWERED, name="<script>x</script>"), REFUSED]
    for html in (batch_html(Visit(films)), strip_html(Visit(films))):
        assert not Page(html).all("script")
        assert "<cat>" not in html
    assert batch_html(Visit()).count("<table") == 0


def test_progress_is_told_and_files_are_saved_only_when_all_are_done() -> None:
    half = Visit([ANSWERED, Judged(Path("c"), "c")])
    assert "1 of 2 judged" in strip_html(half)
    assert "Save as CSV" not in batch_html(half)
    assert "Save as CSV" in batch_html(Visit([ANSWERED]))
    assert "judged" not in strip_html(Visit([ANSWERED]))


def test_two_films_and_what_became_of_each_call() -> None:
    later = replace(
        PREDICTION,
        findings=(
            FindingCall("Pneumonia", "positive", 0.6, 0.42),
            FindingCall("Effusion", "negative", 0.3, 0.41),
            FindingCall("Mass", "positive", 0.121, 0.09),
            FindingCall("Hernia", "not_trained"),
            FindingCall("No Finding", "negative", 0.2, 0.5),
        ),
    )
    before, after = ({row.name: row for row in rows(one)} for one in (PREDICTION, later))
    assert {name: call_change(before[name], after[name]) for name in before if name != "Hernia"} == {
        "Pneumonia": "newly flagged",
        "Effusion": "no longer flagged",
        "Mass": "flagged in both",
        "No Finding": "above threshold, then below threshold",
    }
    html = pair_html(ANSWERED, replace(ANSWERED, answer=later))
    differences = [text for _, text in Page(html).all("td", "number")]
    assert differences == ["+0.57", "−0.53", "less than 0.01", "−0.77"]
    assert "no meaning beyond it" in html
    assert "no difference" in pair_html(ANSWERED, REFUSED)
    assert "Open two films" in pair_html(ANSWERED, None)


@given(st.floats(-1, 1))
def test_a_difference_has_its_sign_and_never_reads_as_more_than_it_is(value: float) -> None:
    words = difference_words(value)
    assert words == "less than 0.01" if abs(value) < 0.005 else words[0] == ("+" if value > 0 else "−")


def test_the_curtain_has_one_slider_and_no_second_set_of_buttons() -> None:
    page = Page(curtain_html(ANSWERED.picture, PREDICTION))
    assert len(page.all("input")) == 1
    assert page.all("button") == []
    assert "Open a film first" in curtain_html(None, None)


def test_examples_are_few_various_and_labelled(paths: list[Path]) -> None:
    folder = paths[0].parent
    for copy in range(8):
        (folder / f"zz{copy}.png").write_bytes(paths[0].read_bytes())
    (folder / "letter.txt").write_text("Dear colleague")
    (folder / "Data_Entry_2017_v2020.csv").write_text(
        "Image Index,Finding Labels\none.png,Effusion\nthree.png,Effusion\ntwo.png,Mass|Pleural_Thickening\n"
    )
    found = find_examples(folder)
    assert len(found) == NUM_EXAMPLES
    assert [(one.title, one.labels) for one in found][:2] == [
        ("Example 1", "Effusion"),
        ("Example 2", "Mass, Pleural Thickening"),
    ]
    assert "one.png" not in examples_html(found)
    with pytest.raises(ConfigError, match="no folder"):
        find_examples(folder / "nowhere")
