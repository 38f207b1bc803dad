"""The films one visitor has open, and what the model said of each: one pass a film, and nothing outlives the visit.

A visit lives in memory, until the visitor takes the films away or leaves the page. Its uploads lie in a folder of its
own, which goes with it; Gradio sweeps every ``SWEEP_SECONDS`` what has lain there for ``KEEP_SECONDS``.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_mtl.data.read import read_image
from cxr_mtl.demo.picture import Picture, make_picture
from cxr_mtl.errors import CxrError, ImageError
from cxr_mtl.types import DEFAULT_OPTIONS, Options, Prediction

if TYPE_CHECKING:
    from cxr_mtl.predict.predictor import Predictor

KEEP_SECONDS, SWEEP_SECONDS = 600, 60


@dataclass(frozen=True, slots=True)
class Judged:
    """One film of a visit.

    Attributes:
        path: where it lies.
        name: what its visitor calls it; may hold a patient's name, so it is shown to nobody else and never logged.
        answer: what the model said, or why it said nothing; None while it waits.
        picture: None where the file cannot be read.
        seconds: from asking to answer.
        before: the answer at the operating point before, while it is asked for another.
        note: why ``answer`` is still that one; empty where it is what was asked for.
    """

    path: Path
    name: str
    answer: Prediction | CxrError | None = None
    picture: Picture | None = None
    seconds: float = 0.0
    before: Prediction | None = None
    note: str = ""


@dataclass
class Visit:
    """The films of one visitor.

    Attributes:
        films: in the order they came.
        at: the one looked at.
        folder: of its uploads, deleted at the end; None before the first.
        pair: places of the two films that were chosen to compare; None for none chosen.
        names: findings of the model that answers.
        mode: operating point that films are judged at.
        turn: held while a film is judged.
    """

    films: list[Judged] = field(default_factory=list)
    at: int = 0
    folder: Path | None = None
    pair: tuple[int | None, int | None] | None = None
    names: list[str] = field(default_factory=list)
    mode: str = "balanced"
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def current(self) -> Judged | None:
        return self.films[self.at] if self.at < len(self.films) else None

    @property
    def done(self) -> int:
        return sum(film.answer is not None for film in self.films)

    def add(self, paths: Sequence[Path], names: Sequence[str], *, uploaded: bool) -> list[Path]:
        """Films that are not yet here, at the end; the first of them is looked at. One without an answer waits again.

        Returns:
            Where they lie now: uploads are moved.
        """
        paths = [self._own(path) for path in paths] if uploaded else list(paths)
        here = {film.path: at for at, film in enumerate(self.films)}
        for path, name in zip(paths, names, strict=True):
            if path not in here:
                here[path] = len(self.films)
                self.films.append(Judged(path, name))
            elif isinstance(self.films[here[path]].answer, CxrError):
                self.films[here[path]] = Judged(path, name)
        if paths:
            self.at = here[paths[0]]
        return paths

    def _own(self, path: Path) -> Path:
        """Gradio names an upload by its content, so one film in two visits would be one file: each has its own."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="visit_", dir=path.parents[1]))
        own = self.folder / path.parent.name / path.name
        own.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # taken by another visit at this very moment: judged as one that is gone
            path.replace(own)
        return own

    def ask_again(self, mode: str) -> None:
        """Every film waits again, for another operating point."""
        with self.turn:
            self.mode = mode
            self.films = [replace(film, answer=None, before=_prediction(film), note="") for film in self.films]

    def end(self) -> None:
        """Forget every film and delete what was uploaded."""
        with self.turn:
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.films, self.folder, self.pair, self.at = [], None, None, 0


class Visits:
    """All that are under way, by the browser's session."""

    def __init__(self) -> None:
        self._visits: dict[str, Visit] = {}

    def __len__(self) -> int:
        return len(self._visits)

    def of(self, session: str) -> Visit:
        return self._visits.setdefault(session, Visit())

    def end(self, session: str) -> None:
        if visit := self._visits.pop(session, None):
            visit.end()


class OneAtATime:
    """A predictor that is asked for one thing after another: a model uses all cores as it is."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._turn = threading.Lock()

    def predict(
        self, sources: Sequence[Path | bytes], options: Options = DEFAULT_OPTIONS
    ) -> list[Prediction | ImageError]:
        with self._turn:
            return self._predictor.predict(sources, options)


def judge(predictor: Predictor, film: Judged, options: Options) -> Judged:
    """The film with its answer; never raises for a film or a server."""
    started = time.perf_counter()
    picture = film.picture
    try:
        if not film.path.exists():
            what = f"{film.name} is no longer here: films are deleted {KEEP_SECONDS // 60} minutes after they came."
            raise CxrError(what, hint="Drop it again.")
        [answer] = predictor.predict([film.path], options)
        seconds = time.perf_counter() - started
        picture = picture or make_picture(read_image(film.path))
    except CxrError as error:
        return replace(film, answer=error, picture=picture)
    return replace(film, answer=answer, picture=picture, seconds=seconds)


def judge_waiting(predictor: Predictor, visit: Visit) -> Iterator[int]:
    """Judge what waits, the film that is looked at first; yields each one's place as it is done.

    Several may do so for one visit, as when a second drop comes while the first is judged: each film has one pass all
    the same. A server that is away has no answer for any film: the others are told so without asking again.
    """
    away: CxrError | None = None
    while True:
        with visit.turn:
            waiting = [at for at, film in enumerate(visit.films) if film.answer is None]
            if not waiting:
                return
            at = visit.at if visit.at in waiting else waiting[0]
            film = visit.films[at]
            judged = replace(film, answer=away) if away else judge(predictor, film, Options(visit.mode))
            if isinstance(judged.answer, CxrError) and not isinstance(judged.answer, ImageError):
                away = judged.answer if film.path.exists() else None
            visit.films[at] = _keep_before(judged)
        yield at


def _keep_before(film: Judged) -> Judged:
    """A film that cannot be asked again keeps the answer it had, with a note; what was said once is not thrown away."""
    if film.before is None or not isinstance(film.answer, CxrError):
        return replace(film, before=None)
    note = f"Still judged at the operating point {film.before.operating_point}: {film.answer}"
    return replace(film, answer=film.before, before=None, note=note)


def _prediction(film: Judged) -> Prediction | None:
    return film.answer if isinstance(film.answer, Prediction) else film.before
