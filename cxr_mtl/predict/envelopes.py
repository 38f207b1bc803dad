"""The forms in which films are asked about, and the form of the answer to each.

Three are plain: the file as the raw body, with no options (TorchServe drops what follows a ``?``); a form with the file
under ``data``; JSON with the file as base64 under ``image``. The fourth is KServe's, see ``kserve``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cxr_mtl.errors import ImageError
from cxr_mtl.predict.json_body import load_json
from cxr_mtl.predict.options import bad_request, parse_options
from cxr_mtl.types import DEFAULT_OPTIONS, Options, Prediction

Row = Mapping[str, Any] | bytes | bytearray

IMAGE_FIELDS = ("data", "body", "image")
"""Where a film may lie: a form's file, TorchServe's raw body, JSON's base64."""

HOW = "Send the file itself (curl -T FILM URL), a form field 'data', or JSON with base64 under 'image'."

_HEAD = 4096  # bytes in which a body of KServe's has come to its inputs


@dataclass(frozen=True, slots=True)
class Served:
    """The model's name and version on the server, which need not be the bundle's, and its looks at a film."""

    name: str = ""
    version: str = ""
    views: int = 1


class Form(Protocol):
    """How an answer is written."""

    @property
    def id(self) -> str:
        """What the sender called the request in its body; empty where he did not."""
        ...

    def body(
        self, answers: Sequence[Prediction | ImageError], request_id: str, served: Served
    ) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the JSON of the answer; a request that could not be read is one film with an error."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was read: its films, still encoded, or what is wrong with one; what is wanted of them."""

    films: tuple[bytes | ImageError, ...]
    options: Options
    form: Form


@dataclass(frozen=True, slots=True)
class Plain:
    """One film, and the prediction or error itself for an answer."""

    id: str = ""

    def body(
        self, answers: Sequence[Prediction | ImageError], request_id: str, served: Served
    ) -> tuple[int, dict[str, Any]]:
        (answer,) = answers
        if isinstance(answer, Prediction):
            return 200, answer.to_dict()
        return answer.status, error_body(answer, request_id)


def error_body(error: ImageError, request_id: str) -> dict[str, Any]:
    """The error half of the prediction contract, with the request's id where it has one."""
    body: dict[str, Any] = error.to_dict()
    return body | {"request_id": request_id} if request_id else body


def read_row(row: Row) -> dict[str, Any]:
    """A request's fields; those of its JSON where it has some.

    Raises:
        ImageError: code ``bad_request``: the body is neither a film nor a JSON object.
    """
    fields = dict(row) if isinstance(row, Mapping) else {"body": row}
    if fields.get("body") in (b"", ""):  # No body; an empty file in a field is for the reader to refuse.
        del fields["body"]
    document = _document(fields["body"]) if "body" in fields else None
    if document is not None:
        del fields["body"]
        fields |= document
    return fields


def read_plain(fields: Mapping[str, Any]) -> Asked:
    """A plain request.

    Raises:
        ImageError: code ``bad_request``: there is no film, or an option makes no sense.
    """
    options = parse_options(fields, others=IMAGE_FIELDS)
    films = [name for name in IMAGE_FIELDS if name in fields]
    if len(films) != 1:
        raise bad_request(f"The request holds {len(films) or 'no'} films, and one is wanted.", HOW)
    return Asked((decode_film(fields[films[0]]),), options, Plain())


def refused(error: ImageError, form: Form) -> Asked:
    """A request that could not be read."""
    return Asked((error,), DEFAULT_OPTIONS, form)


def decode_film(content: Any) -> bytes:
    """Bytes are the file as it is; text, which only JSON brings, is base64.

    Raises:
        ImageError: code ``bad_request``: it is neither.
    """
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    if not isinstance(content, str):
        raise bad_request("The film is not text in base64.", HOW)
    try:
        return base64.b64decode(content, validate=True)
    except ValueError:
        raise bad_request("The film is not base64.", "Standard alphabet, no line breaks, no 'data:' prefix.") from None


def _document(body: Any) -> dict[str, Any] | None:
    """The body's JSON object, or None when the body is a film: no film begins with a brace.

    Of broken JSON that began as KServe's, ``inputs`` is what is wrong with it.
    """
    if isinstance(body, bytes | bytearray):
        if not body[:64].lstrip().startswith(b"{"):
            return None
        try:
            body = load_json(body)
        except (ValueError, RecursionError):
            if b'"inputs"' in body[:_HEAD]:  # KServe's clients want to be told in their form.
                what = "The request's body is broken JSON, or has the protocol's binary data after it."
                return {"inputs": bad_request(what, "Send JSON alone; clients call it binary_data=False.")}
            raise bad_request("The request's body is broken JSON.", HOW) from None
    if not isinstance(body, dict):
        raise bad_request("The request's body is neither a film nor a JSON object.", HOW)
    return body
