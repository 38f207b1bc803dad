"""JSON that somebody sent, which may not grow: a hundred megabytes of empty lists would be gigabytes of Python's."""

from __future__ import annotations

import json
from typing import Any

from cxr_mtl.errors import ImageError

MOST_VALUES = 10_000
"""A request has some dozens. Base64 has none of the characters that are counted."""


def load_json(body: bytes | bytearray) -> Any:
    """What the text says.

    Raises:
        ImageError: code ``bad_request``: it would hold more values than any request.
        ValueError: it is no JSON.
        RecursionError: it nests too deeply.
    """
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        what = f"The request's JSON holds over {MOST_VALUES} values."
        raise ImageError(what, code="bad_request", status=400, hint="Send a film as base64, one text.")
    return json.loads(body)
