"""What a server hands over, turned into films and options, and answers turned into JSON.

A row is one request: TorchServe's mapping of field names to bytes, text or decoded JSON; ``envelopes`` and ``kserve``
say what may be in it. One bad row gets its own error; its neighbours get their answers.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from cxr_mtl.data.refuse import no_memory
from cxr_mtl.errors import ImageError
from cxr_mtl.predict.envelopes import Asked, Plain, Row, Served, read_plain, read_row, refused
from cxr_mtl.predict.kserve import is_infer, read_infer
from cxr_mtl.predict.options import check_time, is_slow
from cxr_mtl.predict.watch import Stopwatch, late
from cxr_mtl.types import FLAGGED, Options, Prediction

__all__ = ["AnswersEach", "Ask", "Response", "answer_requests", "out_of_memory", "parse_request"]

TOGETHER = 4
"""Films in one pass, where a batch has fewer requests: a request of many takes no more memory than many of one."""

SECONDS, MAP_SECONDS = 60.0, 90.0
"""Of a batch, after which no further film has its turn, and no step of a heat map begins, be it of the film under way.
After 120, TorchServe ends the worker and all that it holds."""

_logger = logging.getLogger(__name__)


class AnswersEach(Protocol):
    """The side of the local predictor that a server needs: options of its own for each film."""

    def predict_each(
        self, requests: Sequence[tuple[bytes, Options]], watch: Stopwatch | None = None
    ) -> list[Prediction | ImageError]: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        row: field names to values, or the bare body.
        explain: whether it wants a heat map of each flagged finding, where it names no finding to map.
        id: from its header, or the server's; a KServe body's own comes before the server's.
        own_id: whether the sender chose ``id``.
    """

    row: Row
    explain: bool = False
    id: str = ""
    own_id: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """One request's answer as HTTP, and what may be told of it.

    Attributes:
        status: of HTTP.
        body: JSON in UTF-8.
        id: of the request.
        codes: of each film: ``ok``, or its error's.
        called: findings that were called, of all its films.
    """

    status: int
    body: bytes
    id: str = ""
    codes: tuple[str, ...] = ()
    called: tuple[str, ...] = ()

    @property
    def phrase(self) -> str:
        return HTTPStatus(self.status).phrase


def parse_request(row: Row) -> tuple[bytes, Options]:
    """One plain request's film, still encoded, and what its sender wants.

    Args:
        row: field names to values, or the bare body.

    Raises:
        ImageError: code ``bad_request``, status 400, when there is no film or an option makes no sense.
    """
    asked = read_plain(read_row(row))
    (film,) = asked.films
    if isinstance(film, ImageError):
        raise film
    return film, asked.options


def answer_requests(
    predictor: AnswersEach, asks: Sequence[Ask], served: Served | None = None, watch: Stopwatch | None = None
) -> list[Response]:
    """Answers as many as there are requests, in their order, whatever they hold. Good films share a forward pass.

    Args:
        predictor: who answers.
        asks: the requests.
        served: what the model is called here.
        watch: is told what took how long.
    """
    began, served = time.monotonic(), served or Served()
    watch = replace(watch or Stopwatch(), end=began + MAP_SECONDS)
    read = [_read(ask, served.views) for ask in asks]
    ids = [ask.id if ask.own_id else asked.form.id or ask.id for ask, asked in zip(asks, read, strict=True)]
    films = [
        (film, asked.options, called)
        for asked, called in zip(read, ids, strict=True)
        for film in asked.films
        if isinstance(film, bytes)
    ]
    answers = dict[int, Prediction | ImageError]()
    for turn in _turns([options for _, options, _ in films], max(TOGETHER, len(asks))):
        over = bool(answers) and time.monotonic() > began + SECONDS
        said = [late() for _ in turn] if over else _answer(predictor, [films[i] for i in turn], watch)
        answers |= zip(turn, said, strict=True)
    in_order = (answers[i] for i in range(len(films)))
    return [
        _respond(
            asked, [film if isinstance(film, ImageError) else next(in_order) for film in asked.films], called, served
        )
        for asked, called in zip(read, ids, strict=True)
    ]


def _read(ask: Ask, views: int) -> Asked:
    """The request as it was read, or refused."""
    asked = None
    try:
        fields = read_row(ask.row)
        asked = read_infer(fields) if is_infer(fields) else read_plain(fields)
        if ask.explain and not asked.options.heatmaps:
            asked = replace(asked, options=replace(asked.options, heatmaps=(FLAGGED,)))
        check_time(asked.options, len(asked.films), views)
    except ImageError as error:
        return refused(error, asked.form if asked else Plain())
    except Exception as error:
        return refused(_fault(error, ask.id), asked.form if asked else Plain())
    return asked


def _turns(wanted: Sequence[Options], together: int) -> list[list[int]]:
    """The places of films that go through the model at once; those with slow heat maps are alone, and the last."""
    slow = [i for i, options in enumerate(wanted) if is_slow(options)]
    quick = [i for i, options in enumerate(wanted) if not is_slow(options)]
    return [quick[start : start + together] for start in range(0, len(quick), together)] + [[i] for i in slow]


def _answer(
    predictor: AnswersEach, films: list[tuple[bytes, Options, str]], watch: Stopwatch
) -> list[Prediction | ImageError]:
    try:
        answers = predictor.predict_each([(film, options) for film, options, _ in films], watch)
        if len(answers) != len(films):
            raise RuntimeError("the predictor answered another number of films than it was given")
        return answers
    except Exception as error:
        if len(films) == 1:
            return [_fault(error, films[0][2])]
        _logger.warning("A batch of %d films failed (%s); each goes alone", len(films), type(error).__name__)
    # Only the film that trips the model is to suffer. Outside of the handler above: while the error is at hand, so is
    # all the memory that the batch took.
    return [late() if time.monotonic() > watch.end else _answer(predictor, [film], watch)[0] for film in films]


def _respond(asked: Asked, answers: list[Prediction | ImageError], request_id: str, served: Served) -> Response:
    try:
        status, said = asked.form.body(answers, request_id, served)
        body = json.dumps(said, allow_nan=False)
    except Exception as error:
        answers = [_fault(error, request_id)] * len(answers)
        status, said = asked.form.body(answers, request_id, served)
        body = json.dumps(said)
    return Response(
        status=status,
        body=body.encode(),
        id=request_id,
        codes=tuple(answer.code if isinstance(answer, ImageError) else "ok" for answer in answers),
        called=tuple(
            finding.name
            for answer in answers
            if isinstance(answer, Prediction)
            for finding in answer.findings
            if finding.call == "positive"
        ),
    )


def _fault(error: Exception, request_id: str) -> ImageError:
    """A fault of ours: logged by type and place, because the message may hold values of a film."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    kind = type(error).__name__
    _logger.error("A request failed: %s at %s (id=%s)", kind, where, request_id)
    if out_of_memory(error):
        return no_memory()
    hint = "The server's log names the place. Try the film with `cxr-mtl predict --debug`."
    return ImageError(f"The server could not answer ({kind}).", code="internal", status=500, hint=hint)


_NO_MEMORY = (
    "can't allocate", "bad_alloc", "could not create a primitive",  # the last is oneDNN's
    "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED",
)  # fmt: skip


def out_of_memory(error: Exception) -> bool:
    """Whether memory was short: Python's, torch's on a GPU, or, in words only, torch's or OpenVINO's on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)
