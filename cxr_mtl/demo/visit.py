"""The films one visitor has open, and what the model said of each: one pass a film, and nothing outlives the visit.

A visit lives in memory only. Its uploads are deleted when the visitor takes the films away or leaves the page, and
after ``KEEP_SECONDS`` in any case.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_mtl.data.read import read_image
from cxr_mtl.demo.picture import Picture, make_picture
from cxr_mtl.errors import CxrError, ImageError
from cxr_mtl.types import DEFAULT_OPTIONS, Options, Prediction

if TYPE_CHECKING:
    from cxr_mtl.predict.predictor import Predictor

KEEP_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Judged:
    """One film of a visit.

    Attributes:
        path: where it lies.
        name: what its visitor calls it; may hold a patient's name, so it is shown to nobody else and never logged.
        answer: what the model said, or why it said nothing; None while it waits.
        picture: None where the file cannot be read.
        seconds: from asking to answer.
    """

    path: Path
    name: str
    answer: Prediction | CxrError | None = None
    picture: Picture | None = None
    seconds: float = 0.0


@dataclass
class Visit:
    """The films of one visitor.

    Attributes:
        films: in the order they came.
        at: the one looked at.
        uploads: what is to be deleted at the end.
        names: findings of the model that answers.
        mode: operating point that films are judged at.
        turn: held while a film is judged.
    """

    films: list[Judged] = field(default_factory=list)
    at: int = 0
    uploads: set[Path] = field(default_factory=set)
    names: list[str] = field(default_factory=list)
    mode: str = "balanced"
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def current(self) -> Judged | None:
        return self.films[self.at] if self.at < len(self.films) else None

    @property
    def done(self) -> int:
        return sum(film.answer is not None for film in self.films)

    def add(self, paths: Sequence[Path], names: Sequence[str], *, uploaded: bool) -> None:
        """Films that are not yet here, at the end; the first of them is looked at."""
        if uploaded:
            self.uploads.update(paths)
        here = {film.path: at for at, film in enumerate(self.films)}
        for path, name in zip(paths, names, strict=True):
            if path not in here:
                here[path] = len(self.films)
                self.films.append(Judged(path, name))
        if paths:
            self.at = here[paths[0]]

    def ask_again(self, mode: str) -> None:
        """Every film waits again, for another operating point."""
        with self.turn:
            self.mode = mode
            self.films = [replace(film, answer=None) for film in self.films]

    def end(self) -> None:
        """Forget every film and delete what was uploaded."""
        with self.turn:
            for path in self.uploads:
                path.unlink(missing_ok=True)
            self.films, self.uploads, self.at = [], set(), 0


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
            visit.films[at] = judged
        yield at
