"""What client and server say to each other, and when a client says it again.

No film is sent from here and nobody waits: the sync and the async client do that, and share every decision.
A prediction changes nothing on the server, so whatever broke on the way may be asked once more.
"""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from cxr_mtl.data.refuse import NAMELESS, no_memory, printable, refuse
from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.predict.options import options_to_dict
from cxr_mtl.types import DEFAULT_OPTIONS, PREDICTION_SCHEMA, Options, Prediction

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds before the first and, doubled each time, before a late try; each is cut by up to half, at random."""
KEY_PAUSE = 2.0
"""Seconds after which a key that TorchServe refused is shown once more: it refuses the right one while it is stopped,
and a proxy takes a second to learn a new one."""
BUSY, NO_MEMORY = (429, 503), 507

_START = "Start one with `cxr-mtl serve`."
_NAME_KEY = "`cxr-mtl serve --status` says where key_file.json is; a proxy has keys of its own, one a client."
_DIED, _TOKEN = "Worker died", "Token"  # TorchServe's words, with status 500 or 507, and 400
_NO_FORMS = "no_forms"  # our proxy's code, with a status that films have too


@dataclass(frozen=True, slots=True)
class Pause:
    """Ask again after some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Server:
    """Whom to ask.

    Attributes:
        url: the inference address, without a slash at its end.
        key: the inference key; None for a server without authorisation.
        model: the name it serves the model under.
        timeout: seconds that one film may take, queue, pauses and further tries included.
        retries: further tries of one film.
        patience: seconds for which it is asked again while it is busy, however many tries that takes.
    """

    url: str
    key: str | None = field(repr=False)
    model: str
    timeout: float
    retries: int
    patience: float = 0.0


class Turn:
    """One film's tries.

    Attributes:
        url: where it is posted.
        post: what is posted, as httpx takes it.
    """

    def __init__(self, server: Server, film: bytes, options: Options, name: str = NAMELESS) -> None:
        self.url = f"{server.url}/predictions/{server.model}"
        self.post = envelope(film, options)
        self._server, self._size, self._name, self._tried, self._excused = server, len(film), name, 0, 0
        self._begun = time.monotonic()
        self._deadline = self._begun + server.timeout

    def grant(self, seconds: float) -> None:
        """Time that the film waited here and the server had nothing to do with."""
        self._deadline += seconds

    @property
    def timeout(self) -> httpx.Timeout:
        """Of the next try."""
        left = max(self._deadline - time.monotonic(), 0.001)
        return httpx.Timeout(left, connect=min(left, 10.0))

    def hear(self, said: httpx.Response | Exception) -> Prediction | ImageError | Pause:
        """What to make of an answer, or of what came in its place.

        Raises:
            ServeError: the server cannot be reached, refuses the key, is overloaded or does not serve the model.
        """
        self._tried += 1
        again, least, busy = False, 0.0, turned_away(said)
        if isinstance(said, Exception):
            outcome: Prediction | ImageError | ServeError = self._broken(said)
            # What took too long has had all its time; what speaks no HTTP or shows a wrong certificate will again.
            again = isinstance(said, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout)
            again &= not untrusted(said)
        else:
            outcome = self._answer(said)
            if said.status_code in (*BUSY, NO_MEMORY) or _died(said):  # who had no memory is replaced
                again, least = True, retry_after(said.headers)
            elif said.status_code == 400 and _TOKEN in message_of(said) and self._tried == 1:
                again, least = True, KEY_PAUSE
        if again:
            now, jitter = time.monotonic(), random.uniform(0.0, min(least, 1.0))
            pause = max(least + jitter, pause_before(self._tried))
            if busy and now + pause - self._begun < self._server.patience:
                self._excused += 1
                self.grant(pause)
                return Pause(pause)
            if self._tried - self._excused <= self._server.retries and now + pause < self._deadline:
                return Pause(pause)
        if isinstance(outcome, ServeError):
            raise outcome
        return outcome

    def _broken(self, error: Exception) -> ServeError:
        url = self._server.url
        if untrusted(error):
            what = f"The certificate of {url} is signed by nobody this machine trusts, or for another name."
            return ServeError(what, hint="Name the server's own certificate or its authority's with --ca FILE.")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServeError(f"No server answers at {url}.", hint=_START)
        if isinstance(error, httpx.TimeoutException):
            return ServeError(f"{url} did not answer in time.", hint="Its logs say what it is doing.")
        what = f"The connection to {url} broke ({type(error).__name__})."
        return ServeError(what, hint=f"A film of {self._size} bytes may be too large.")

    def _answer(self, response: httpx.Response) -> Prediction | ImageError | ServeError:
        status, url = response.status_code, self._server.url
        body = json_object(response)
        error = body.get("error")
        if status in (401, 403, 404, 405, *BUSY) or (isinstance(error, dict) and error.get("code") == _NO_FORMS):
            return self._refusal(status, "")  # whoever said it and in what form, it is not of this film
        if isinstance(error, dict):
            return self._error(error, status)
        if body.get("schema") == PREDICTION_SCHEMA:
            return Prediction.from_dict(body)
        if status == 413:
            return refuse("too_large", f"The film is larger than {url} takes.", "Send a smaller copy.")
        # The server itself may be well, and this film too much for it: that gets an error, and its neighbours answers.
        times = f"{self._tried} times of {self._tried}"
        if _died(response):
            what = f"The server's worker ended over this film, {times}."
            return ImageError(what, code="internal", status=500, hint="The server's log says of what.")
        if status == NO_MEMORY:
            what = f"The server had no memory left for this film, {times}."
            return ImageError(what, code="out_of_memory", status=NO_MEMORY, hint="Ask when less is going on.")
        return self._refusal(status, message_of(response))

    def _error(self, error: dict[str, Any], status: int) -> ImageError:
        """What the model's handler says of a film, or a proxy of its size."""
        message = str(error.get("message", ""))
        if message.startswith(f"{NAMELESS} "):  # the server was not told
            message = self._name + message.removeprefix(NAMELESS)
        return ImageError(message, code=str(error.get("code", "")), hint=str(error.get("hint", "")), status=status)

    def _refusal(self, status: int, message: str) -> ServeError:
        """What the front end or a proxy says itself, in our words."""
        url, model = self._server.url, self._server.model
        if status in (401, 403) or _TOKEN in message:
            return ServeError(f"{url} refused the key.", hint=_NAME_KEY)
        if status == 404:
            return ServeError(f"{url} has no model '{model}'.", hint="`cxr-mtl serve --status` lists them.")
        if status in BUSY:
            return ServeError(f"{url} is overloaded or its worker is down.", hint="Try again; else see its logs.")
        what = f"{url} answered {status} and not in the form {PREDICTION_SCHEMA}."
        return ServeError(what, hint="Is it a server of cxr-mtl, and of this version?")


def envelope(film: bytes, options: Options) -> dict[str, Any]:
    """What httpx posts: the file as it is or, where options go with it, JSON with the file in base64.

    Never a form, which our proxy refuses, nor the file's own name, which may be a patient's. A file that would be taken
    for JSON, or for none at all, goes in JSON too.
    """
    if options == DEFAULT_OPTIONS and film and not film[:64].lstrip().startswith(b"{"):
        return {"content": film, "headers": {"Content-Type": "application/octet-stream"}}
    wanted = {name: value for name, value in options_to_dict(options).items() if value is not None}
    body = json.dumps(wanted | {"image": base64.b64encode(film).decode("ascii")})
    return {"content": body.encode("ascii"), "headers": {"Content-Type": "application/json"}}


def turned_away(said: httpx.Response | Exception) -> bool:
    """Whether a server, or a proxy, has too much to do."""
    return isinstance(said, httpx.Response) and said.status_code in BUSY


def _died(response: httpx.Response) -> bool:
    return response.status_code in (500, NO_MEMORY) and _DIED in message_of(response)


def pause_before(retry: int) -> float:
    """Seconds before the first, second, ... further try; by chance, lest all clients come back at once."""
    longest = min(FIRST_PAUSE * 2.0 ** (retry - 1), LONGEST_PAUSE)
    return random.uniform(longest / 2, longest)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to be left alone, by number or date; 0 where it does not say."""
    stated = headers.get("retry-after", "").strip()
    if stated.isdecimal():
        return float(stated)
    try:
        date = parsedate_to_datetime(stated)
    except ValueError:
        return 0.0
    until = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def json_object(response: httpx.Response) -> dict[str, Any]:
    """The body, or nothing where it is no JSON object."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def message_of(response: httpx.Response) -> str:
    """What TorchServe's front end says itself; nothing where another speaks."""
    return str(json_object(response).get("message", ""))


def untrusted(error: Exception) -> bool:
    """Whether the server's certificate was the trouble."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def name_of(source: Path | bytes) -> str:
    """What messages call a film."""
    return printable(source.name) if isinstance(source, Path) else NAMELESS


def film_bytes(source: Path | bytes) -> bytes | ImageError:
    """The file's bytes, or the refusal that the local predictor gives."""
    if isinstance(source, bytes):
        return source
    name = name_of(source)
    try:
        if source.exists() and not source.is_file():  # A folder; or a pipe or device, which may never end.
            return refuse("unreadable", f"{name} is not a file.", "Name the film itself.")
        return source.read_bytes()
    except MemoryError:
        return no_memory(name)
    except FileNotFoundError:
        return refuse("missing", f"{name} does not exist.", "Check the path.")
    except (OSError, ValueError):
        return refuse("unreadable", f"{name} cannot be opened.", "Check the path and its permissions.")
