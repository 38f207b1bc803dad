"""The demo's page, put together from Gradio's parts and wired; what it says is made in `present.py` and beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from cxr_mtl.demo import batch, compare, controls, present
from cxr_mtl.demo.examples import Example, examples_html
from cxr_mtl.demo.facts import header_html
from cxr_mtl.demo.picture import overlay_url
from cxr_mtl.demo.rows import trained
from cxr_mtl.demo.strip import strip_html
from cxr_mtl.demo.visit import KEEP_SECONDS, SWEEP_SECONDS, Judged, OneAtATime, Visit, Visits, judge, judge_waiting
from cxr_mtl.errors import CxrError
from cxr_mtl.types import Options, Prediction

if TYPE_CHECKING:
    from cxr_mtl.predict.predictor import Predictor

_PRESS = """element.addEventListener('click', (event) => {
  const hit = event.target.closest('[data-example], [data-film], button[data-finding], g[data-finding]');
  if (hit) trigger('select', {...hit.dataset});
});"""
_TELL_SECONDS = 0.5
Update = dict[Any, Any]


def look(
    predictor: Predictor, film: Judged, mode: str, finding: str | None = None, explain: str | None = None
) -> present.Screen:
    """One film's screen; the model is asked again only for a heat map. Without one, the answer there was stays.

    Args:
        predictor: who answers.
        film: with or without its answer.
        mode: operating point.
        finding: which heat map to show; empty for none.
        explain: how it is made; empty for the model's usual way.
    """
    if finding and isinstance(film.answer, Prediction):
        mapped = judge(predictor, film, _options(film.answer.operating_point if film.note else mode, finding, explain))
        if isinstance(mapped.answer, CxrError):
            return show(film, finding, f"There is no heat map of {finding}: {mapped.answer}")
        film = mapped
    return show(film, finding)


def show(film: Judged, finding: str | None = None, trouble: str = "") -> present.Screen:
    """One film's screen, with what it holds; ``trouble`` says what of it could not be had."""
    if film.answer is None:
        return present.waiting()
    if isinstance(film.answer, CxrError):
        return present.refused(film.answer, film.picture)
    assert film.picture is not None
    heat = next((h.finding for h in film.answer.heatmaps if h.finding == finding), None)
    saved = overlay_url(film.picture, film.answer, heat)
    trouble = " ".join(filter(None, (film.note, trouble)))
    return present.answered(film.picture, film.answer, finding or None, film.seconds, saved, trouble)


def _options(mode: str, finding: str | None, explain: str | None) -> Options:
    return Options(mode, heatmaps=(finding,), explain=explain or None) if finding else Options(mode)


@dataclass
class Page:
    """The page's parts and what happens between them."""

    predictor: Predictor
    examples: Sequence[Example]
    who: str
    slow: bool

    def __post_init__(self) -> None:
        self.predictor = OneAtATime(self.predictor)
        self.visits = Visits()
        self.start = present.blank(self.who, bool(self.examples))

    def build(self, title: str) -> gr.Blocks:
        kept = (SWEEP_SECONDS, KEEP_SECONDS)
        self.blocks = gr.Blocks(analytics_enabled=False, delete_cache=kept, title=title, fill_width=True)
        with self.blocks:
            controls.html(present.banner_html(), "Disclaimer", elem_id="cxr-banner")
            controls.html(present.title_html(self.who), "Title")
            with gr.Row(elem_id="cxr-page"):
                with gr.Column(elem_id="cxr-left", min_width=240):
                    self.drop = controls.drop_zone()
                    shown = examples_html(self.examples) if self.examples else ""
                    self.offered = controls.html(shown, "Examples", js=_PRESS, elem_id="cxr-examples")
                    self.settings = controls.settings(slow=self.slow)
                with gr.Column(elem_id="cxr-main", min_width=300):
                    self._main()
            self._wire()
            self._api()
            self.blocks.unload(self._leave)
        return self.blocks

    def _main(self) -> None:
        start = self.start
        self.strip = controls.html("", "Open films", js=_PRESS, elem_id="cxr-strip")
        with gr.Tabs(selected="film") as self.tabs:
            with gr.Tab("Film", id="film"), gr.Row(elem_id="cxr-screen"):
                self.film = controls.html(start.film, "Film", js=_PRESS, elem_id="cxr-film")
                self.table = controls.html(start.table, "Findings", js=_PRESS, elem_id="cxr-table")
                self.tree = controls.html(start.tree, "Tree of findings", elem_id="cxr-tree")
            with gr.Tab("Compare", id="compare"):
                self.curtain = controls.html(start.curtain, "Plain film against overlay")
                controls.html(compare.PAIR_HEAD, "Two films of one patient")
                with gr.Row(elem_id="cxr-choose"):
                    self.earlier = controls.choose_film("Earlier film")
                    self.later = controls.choose_film("Later film")
                self.pair = controls.html(compare.pair_html(None, None), "Two films of one patient")
            with gr.Tab("Batch", id="batch"):
                self.batch = controls.html(batch.batch_html(Visit()), "All films", js=_PRESS, elem_id="cxr-batch")
            with gr.Tab("Details", id="details"):
                self.facts = controls.html(start.facts, "Details")
                self.ask = gr.Button("Show the file's header (may name the patient)", size="sm", elem_id="cxr-ask")
                self.header = controls.html("", "Header of the file")
        self.parts = [self.film, self.table, self.tree, self.facts, self.curtain]

    def _wire(self) -> None:
        chosen = self.settings
        asked = [chosen.mode, chosen.finding, chosen.explain]
        shown = [*self.parts, self.strip, self.header, chosen.finding, chosen.shown]
        everything = [*shown, self.drop, self.batch, self.earlier, self.later, self.pair, self.tabs]
        # Gradio would drop a second press, or a second drop, while the first is under way.
        own: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "multiple"}
        own["concurrency_limit"] = 8
        judged = own | {"outputs": everything}
        self.drop.upload(self._dropped, [self.drop, *asked], **judged)
        self.offered.select(self._example, asked, **judged)
        chosen.mode.input(self._again, asked, **judged)
        self.strip.select(self._strip, asked, **judged)
        self.batch.select(self._strip, asked, **judged)
        heat = own | {"show_progress": "minimal", "show_progress_on": self.film}
        for part in (self.film, self.table):
            part.select(self._press, asked, shown, **heat)
        for control in (chosen.finding, chosen.explain):
            control.input(self._look, asked, shown, **heat)
        for which in (self.earlier, self.later):
            which.input(self._pair, [self.earlier, self.later], self.pair, **own)
        chosen.everything.click(self._all, None, chosen.shown, **own)
        self.ask.click(self._header, None, self.header, **own)

    def _api(self) -> None:
        """The one door for programs: a film in, its parts and the contract's JSON out."""

        def predict(file: str | None, mode: str, finding: str | None, explain: str | None) -> tuple[Any, ...]:
            film, screen = None, self.start
            if file:
                film = Judged(Path(file), Path(file).name)
                film = judge(self.predictor, film, _options(mode, finding, explain))
                screen = show(film, finding)
            return screen.film, screen.table, screen.tree, batch.body_of(film) if film else None, screen.facts

        film = gr.File(visible=False)
        said = [gr.Textbox(visible=False) for _ in range(3)]
        body, facts = gr.JSON(visible=False), gr.Textbox(visible=False)
        mode = gr.Textbox("balanced", visible=False)
        finding, explain = gr.Textbox("", visible=False), gr.Textbox("", visible=False)
        door = gr.Button(visible=False)
        door.click(predict, [film, mode, finding, explain], [*said, body, facts], api_name="predict")

    def _dropped(
        self, files: list[str] | None, mode: str, finding: str | None, explain: str | None, request: gr.Request
    ) -> Iterator[Update]:
        visit = self.visits.of(request.session_hash or "")
        paths = [Path(file) for file in files or ()]
        own = visit.add(paths, [path.name for path in paths], uploaded=True)
        self.blocks.upload_file_set.update(str(path) for path in own)  # what Gradio sweeps
        yield from self._judge(visit, mode, finding, explain)

    def _example(
        self, mode: str, finding: str | None, explain: str | None, event: gr.EventData, request: gr.Request
    ) -> Iterator[Update]:
        visit = self.visits.of(request.session_hash or "")
        one = self.examples[int(event.example)]
        visit.add([one.path], [f"{one.title} ({one.labels})" if one.labels else one.title], uploaded=False)
        yield from self._judge(visit, mode, finding, explain)

    def _again(self, mode: str, finding: str | None, explain: str | None, request: gr.Request) -> Iterator[Update]:
        """All films at another operating point."""
        visit = self.visits.of(request.session_hash or "")
        visit.ask_again(mode)
        yield from self._judge(visit, mode, finding, explain)

    def _judge(self, visit: Visit, mode: str, finding: str | None, explain: str | None) -> Iterator[Update]:
        visit.mode = mode
        yield {self.drop: None, **self._lists(visit), **self._screen(visit, mode, "", None)}
        told = time.monotonic()
        for at in judge_waiting(self.predictor, visit):
            if at == visit.at:
                yield {**self._lists(visit), **self._screen(visit, mode, finding, explain)}
            elif time.monotonic() > told + _TELL_SECONDS:  # the lists hold every film: many films, few such updates
                yield self._lists(visit)
            else:
                continue
            told = time.monotonic()
        # Not the screen: a heat map may have been opened while the others were judged.
        yield {**self._lists(visit), **self._pairs(visit)}

    def _strip(
        self, mode: str, finding: str | None, explain: str | None, event: gr.EventData, request: gr.Request
    ) -> Update:
        """Look at another film, or take all away."""
        visit = self.visits.of(request.session_hash or "")
        at = int(event.film)
        if at < 0:
            visit.end()
            return {**self._lists(visit), **self._screen(visit, mode, "", None), **self._pairs(visit)}
        visit.at = min(at, max(len(visit.films) - 1, 0))
        return {**self._screen(visit, mode, finding, explain), self.tabs: gr.Tabs(selected="film")}

    def _press(
        self, mode: str, finding: str | None, explain: str | None, event: gr.EventData, request: gr.Request
    ) -> Update:
        """A finding alone, or all again where it was alone already."""
        now = "" if event.finding == finding else event.finding
        return self._look(mode, now, explain, request) | {self.settings.finding: now}

    def _look(self, mode: str, finding: str | None, explain: str | None, request: gr.Request) -> Update:
        return self._screen(self.visits.of(request.session_hash or ""), mode, finding, explain)

    def _screen(self, visit: Visit, mode: str, finding: str | None, explain: str | None) -> Update:
        film = visit.current
        screen = look(self.predictor, film, mode, finding, explain) if film else self.start
        answer = film.answer if film else None
        update: Update = dict(zip(self.parts, astuple(screen), strict=True))
        update |= {self.strip: strip_html(visit), self.header: ""}
        if isinstance(answer, Prediction):
            names = [call.name for call in answer.findings]
            heats = [controls.NO_HEAT, *((name, name) for name in trained(answer.to_dict()))]
            update[self.settings.finding] = gr.update(choices=heats, value=finding or "")
            if names != visit.names:
                visit.names = names
                update[self.settings.shown] = gr.update(choices=names, value=names)
        return update

    def _lists(self, visit: Visit) -> Update:
        return {self.strip: strip_html(visit), self.batch: batch.batch_html(visit)}

    def _pairs(self, visit: Visit) -> Update:
        """The films that may be compared; the first two until others are chosen."""
        choices = [(f"{at + 1}: {film.name}", at) for at, film in enumerate(visit.films)]
        both = visit.pair or ((0, 1) if len(choices) > 1 else (None, None))
        boxes = zip((self.earlier, self.later), both, strict=True)
        update: Update = {box: gr.update(choices=choices, value=value) for box, value in boxes}
        return update | {self.pair: _pair(visit, *both)}

    def _pair(self, earlier: int | None, later: int | None, request: gr.Request) -> str:
        visit = self.visits.of(request.session_hash or "")
        visit.pair = (earlier, later)
        return _pair(visit, earlier, later)

    def _all(self, request: gr.Request) -> list[str]:
        return self.visits.of(request.session_hash or "").names

    def _header(self, request: gr.Request) -> str:
        film = self.visits.of(request.session_hash or "").current
        return header_html(film.path) if film else "<p>Open a film first.</p>"

    def _leave(self, request: gr.Request) -> None:
        session = request.session_hash or ""
        self.visits.end(session)
        # Gradio would remember for an hour what the page showed.
        self.blocks.app.state_holder.session_data.pop(session, None)


def _pair(visit: Visit, *places: int | None) -> str:
    two = [visit.films[at] if at is not None and at < len(visit.films) else None for at in places]
    return compare.pair_html(two[0], two[1])
