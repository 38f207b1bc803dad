"""What a server's log says of a request: which it was, how it ended and how long it took; nothing of what was in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
"""An id that may stand in a log: no room for a line of its own, nor for much that is none."""
ID_HINT = "Up to 64 letters, digits, '.', '_' and '-'. It is logged: let it not name a patient."
ID_HEADER = "x-caller-request-id"
"""Where an answer gives the id back: TorchServe writes one of its own into ``x-request-id``, whatever is there."""
_FROM_CALLER = "x-request-id"

_logger = logging.getLogger(__name__)


def caller_id(headers: Mapping[str, Any]) -> str:
    """The id in the caller's ``X-Request-Id``; empty where there is none or it is none that may stand in a log."""
    for name, value in headers.items():
        # A form's fields lie among the headers, with objects for values.
        if name.lower() == _FROM_CALLER and isinstance(value, str) and ID.fullmatch(value):
            return value
    return ""


def tell_request(request_id: str, status: int, codes: Sequence[str], seconds: float) -> None:
    """The one line of a request.

    Args:
        request_id: of the request.
        status: of its answer.
        codes: of each film, ``ok`` or an error's.
        seconds: of the batch that it was answered with.
    """
    said = ",".join(dict.fromkeys(codes))
    values = (request_id, status, said, len(codes), seconds * 1000)
    _logger.info("request id=%s status=%d code=%s films=%d ms=%.0f", *values)
