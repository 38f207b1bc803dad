"""What a server hands over, turned into films and options, and answers turned into JSON.

A row is one request: TorchServe's mapping of field names to bytes, text or decoded JSON. There are three ways to ask:
the file as the raw body, with no options (TorchServe drops what follows a ``?``); a form with the file under ``data``;
JSON with the file as base64 under ``image``. One bad row gets its own error; its neighbours get their answers.
"""

from __future__ import annotations

import base64
import difflib
import json
import logging
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from cxr_mtl.errors import ImageError
from cxr_mtl.predict.json_body import load_json
from cxr_mtl.types import FLAGGED, Options, Prediction

Row = Mapping[str, Any] | bytes | bytearray

IMAGE_FIELDS = ("data", "body", "image")
"""Where a film may lie: a form's file, TorchServe's raw body, JSON's base64."""
OPTION_FIELDS = ("operating_point", "findings", "boxes", "heatmaps", "explain")
MOST_SLOW_MAPS = 3
"""Heat maps that go over a film's pixels, of one request."""

_HOW = "Send the file itself (curl -T FILM URL), a form field 'data', or JSON with base64 under 'image'."
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_logger = logging.getLogger(__name__)


class AnswersEach(Protocol):
    """The side of the local predictor that a server needs: options of its own for each film."""

    def predict_each(self, requests: Sequence[tuple[bytes, Options]]) -> list[Prediction | ImageError]: ...


@dataclass(frozen=True, slots=True)
class Response:
    """One request's answer as HTTP: ``body`` is JSON in UTF-8."""

    status: int
    phrase: str
    body: bytes


def parse_request(row: Row) -> tuple[bytes, Options]:
    """One request's film, still encoded, and what its sender wants.

    Args:
        row: field names to values, or the bare body.

    Raises:
        ImageError: code ``bad_request``, status 400, when there is no film or an option makes no sense.
    """
    fields = dict(row) if isinstance(row, Mapping) else {"body": row}
    if fields.get("body") in (
        b"",
        "",
    ):  # A request without a body; an empty file in a field is for the reader to refuse.
        del fields["body"]
    document = _document(fields["body"]) if "body" in fields else None
    if document is not None:
        del fields["body"]
        fields |= document
    _check_names(fields)
    films = [name for name in IMAGE_FIELDS if name in fields]
    if len(films) != 1:
        raise _bad(f"The request holds {len(films) or 'no'} films, and one is wanted.", _HOW)
    return _film(fields.pop(films[0])), _options(fields)


def answer_requests(predictor: AnswersEach, rows: Sequence[Row], explained: Collection[int] = ()) -> list[Response]:
    """Answers as many as there are rows, in their order, whatever the rows hold. All good rows share a forward pass.

    Heat maps that take long are refused: who does not answer in time is ended, with all that others sent him.

    Args:
        predictor: who answers.
        rows: the requests.
        explained: rows that get a heat map of each flagged finding where they name no finding to map.
    """
    responses: dict[int, Response] = {}
    requests: dict[int, tuple[bytes, Options]] = {}
    for index, row in enumerate(rows):
        try:
            film, options = parse_request(row)
            if index in explained and not options.heatmaps:
                options = replace(options, heatmaps=(FLAGGED,))
            _check_time(options)
            requests[index] = film, options
        except ImageError as error:
            responses[index] = _error_response(error)
        except Exception as error:
            responses[index] = _error_response(_internal(error))
    responses |= zip(requests, _answer(predictor, list(requests.values())), strict=True)
    return [responses[index] for index in range(len(rows))]


def options_to_dict(options: Options) -> dict[str, Any]:
    """The JSON fields that ``parse_request`` reads back into the same options.

    ``explain`` is sent only where it is set: a server from before it refuses options that it does not know.
    """
    explain = {} if options.explain is None else {"explain": options.explain}
    return {
        "operating_point": options.operating_point,
        "findings": None if options.findings is None else list(options.findings),
        "boxes": options.boxes,
        "heatmaps": list(options.heatmaps),
        **explain,
    }


def _answer(predictor: AnswersEach, requests: list[tuple[bytes, Options]]) -> list[Response]:
    if not requests:
        return []
    try:
        answers = predictor.predict_each(requests)
        if len(answers) != len(requests):
            raise RuntimeError("the predictor answered another number of films than it was given")
        return [_response(answer) for answer in answers]
    except Exception as error:
        if len(requests) > 1:  # Only the film that trips the model is to suffer.
            return [_answer(predictor, [request])[0] for request in requests]
        return [_error_response(_internal(error))]


def _response(answer: Prediction | ImageError) -> Response:
    if isinstance(answer, ImageError):
        return _error_response(answer)
    return Response(200, "OK", json.dumps(answer.to_dict(), allow_nan=False).encode())


def _error_response(error: ImageError) -> Response:
    return Response(error.status, HTTPStatus(error.status).phrase, json.dumps(error.to_dict()).encode())


def _internal(error: Exception) -> ImageError:
    """A fault of ours: logged by type and place, because the message may hold values of a film."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    _logger.error("A request failed: %s at %s", type(error).__name__, where)
    hint = "The server's log names the place. Try the film with `cxr-mtl predict --debug`."
    return ImageError(f"The server could not answer ({type(error).__name__}).", code="internal", status=500, hint=hint)


def _bad(message: str, hint: str = "") -> ImageError:
    return ImageError(message, code="bad_request", status=400, hint=hint)


def _check_names(fields: Mapping[str, Any]) -> None:
    for name in fields:
        if name not in OPTION_FIELDS and name not in IMAGE_FIELDS:
            close = difflib.get_close_matches(str(name), OPTION_FIELDS, n=1)
            known = f"Known: {', '.join(OPTION_FIELDS)}."
            raise _bad(f"Unknown option '{str(name)[:40]}'.", f"Did you mean '{close[0]}'? {known}" if close else known)


def _check_time(options: Options) -> None:
    if options.explain == "occlusion":
        hint = "Run `cxr-mtl predict --explain occlusion` on your own machine, or choose another method."
        raise _bad("explain 'occlusion' takes too long for a server.", hint)
    maps = set(options.heatmaps or (FLAGGED,))
    if options.explain == "integrated_gradients" and (FLAGGED in maps or len(maps) > MOST_SLOW_MAPS):
        what = f"explain 'integrated_gradients' is slow: a server maps at most {MOST_SLOW_MAPS} findings so, by name."
        raise _bad(what, "Name them under 'heatmaps', or choose another method.")


def _document(body: Any) -> dict[str, Any] | None:
    """The body's JSON object, or None when the body is a film: no film begins with a brace."""
    if isinstance(body, bytes | bytearray):
        if not body[:64].lstrip().startswith(b"{"):
            return None
        try:
            body = load_json(body)
        except (ValueError, RecursionError):
            raise _bad("The request's body is broken JSON.", _HOW) from None
    if not isinstance(body, dict):
        raise _bad("The request's body is neither a film nor a JSON object.", _HOW)
    return body


def _film(content: Any) -> bytes:
    """Bytes are the file as it is; text, which only JSON brings, is base64."""
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    if not isinstance(content, str):
        raise _bad("The film is not text in base64.", _HOW)
    try:
        return base64.b64decode(content, validate=True)
    except ValueError:
        raise _bad("The film is not base64.", "Standard alphabet, no line breaks, no 'data:' prefix.") from None


def _options(fields: Mapping[str, Any]) -> Options:
    chosen = {name: _text(value) for name, value in fields.items() if name in OPTION_FIELDS and value is not None}
    for field, example in (("operating_point", "balanced"), ("explain", "grad_cam")):
        if not isinstance(chosen.get(field, ""), str):
            raise _bad(f"'{field}' is not text.", f"Such as {example}.")
    for field in ("findings", "heatmaps"):
        if field in chosen:
            chosen[field] = _names(field, chosen[field])
    if "boxes" in chosen:
        chosen["boxes"] = _flag("boxes", chosen["boxes"])
    return Options(**chosen)


def _text(value: Any) -> Any:
    """Forms carry bytes; JSON carries itself."""
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _bad("An option is not UTF-8 text.") from None


def _names(field: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, Iterable) or isinstance(value, Mapping) or not all(isinstance(v, str) for v in value):
        raise _bad(f"'{field}' is not a list of finding names.", "A JSON list, or names with commas between.")
    return tuple(value)


def _flag(field: str, value: Any) -> bool:
    flag = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
    if flag is None:
        raise _bad(f"'{field}' is neither true nor false.")
    return flag
