"""The predictor that asks a running server. Same verbs and same answers as the local one."""

from __future__ import annotations

import json
import re
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.predict.ahead import in_order
from cxr_mtl.predict.client import Client
from cxr_mtl.predict.places import Places
from cxr_mtl.predict.wire import Pause, Turn, film_bytes, json_object, name_of, turned_away
from cxr_mtl.types import DEFAULT_OPTIONS, Options, Prediction

_NAME_FILE = "`cxr-mtl serve --status` says where key_file.json is; a proxy's key stands in a file alone."
_BARE_KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what may follow "Bearer " (RFC 6750); no JSON that holds a key is such


def read_key(key_file: Path, kind: str = "inference") -> str:
    """One of the keys that TorchServe wrote when it started, or the one key of a client.

    Args:
        key_file: ``key_file.json`` of the running server, or a file that holds a proxy's key and nothing else.
        kind: ``inference``, what clients send, or ``management``.

    Raises:
        ServeError: the file is missing or holds no such key.
    """
    try:
        text = key_file.read_text(encoding="utf-8").strip()
        if kind == "inference" and _BARE_KEY.fullmatch(text):
            return text
        return str(json.loads(text)[kind]["key"])
    except OSError:
        raise ServeError(f"{key_file} cannot be read.", hint=_NAME_FILE) from None
    except (ValueError, KeyError, TypeError):
        raise ServeError(f"{key_file} holds no {kind} key.", hint=_NAME_FILE) from None


class RemotePredictor(Client):
    """Films to a server, answers back. Its connections stay open until ``close``, or until nobody holds it any more.

    Several threads may ask it at once. What breaks on the way, and a server that is busy (503, 429), is asked again
    after a pause that grows, not before the server's Retry-After, and with fewer films at once; a refusal (other 4xx)
    is final. Arguments and errors are ``Client``'s.
    """

    def _open(self, **settings: Any) -> None:
        self._client = httpx.Client(**settings)
        self._end = weakref.finalize(self, self._client.close)
        self._places = Places(self.concurrency)

    def predict(
        self, sources: Sequence[Path | bytes], options: Options = DEFAULT_OPTIONS
    ) -> list[Prediction | ImageError]:
        """As many answers as sources, in their order.

        Raises:
            ServeError: the server cannot be reached, refuses the key, is overloaded or does not serve the model.
        """
        return list(self.predict_iter(sources, options))

    def predict_iter(
        self, sources: Iterable[Path | bytes], options: Options = DEFAULT_OPTIONS
    ) -> Iterator[Prediction | ImageError]:
        """The same one by one, for more films than fit into memory: of either side only a few are held."""
        over = threading.Event()

        def ask(source: Path | bytes) -> Prediction | ImageError:
            return self.predict_one(source, options, over)

        return in_order(ask, sources, threads=self.concurrency, ahead=2 * self.concurrency, give_up=over.set)

    def predict_one(
        self, source: Path | bytes, options: Options = DEFAULT_OPTIONS, over: threading.Event | None = None
    ) -> Prediction | ImageError:
        """One film's answer; raises as ``predict``. Once ``over`` is set, nothing is asked any more."""
        film = film_bytes(source)
        if isinstance(film, ImageError):
            return film
        turn, over = Turn(self._server, film, options, name_of(source)), over or threading.Event()
        while True:
            with self._places.one() as waited:
                if over.is_set():  # Who held the place may have been at it for long.
                    raise _nobody_waits()
                turn.grant(waited)
                try:
                    said: httpx.Response | Exception = self._client.post(turn.url, timeout=turn.timeout, **turn.post)
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    said = error
            if turned_away(said):
                self._places.turned_away()
            heard = turn.hear(said)
            if not isinstance(heard, Pause):
                return heard
            if over.wait(heard.seconds):
                raise _nobody_waits()

    def healthy(self) -> bool:
        """Whether the server is there and has a worker for each model; never raises for a server that is not."""
        try:
            response = self._client.get(f"{self.url}/ping", timeout=10.0)
        except (httpx.HTTPError, httpx.InvalidURL):
            return False
        return response.status_code == 200 and json_object(response).get("status") == "Healthy"

    def close(self) -> None:
        """Close its connections; it cannot be asked any more."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _nobody_waits() -> ServeError:
    return ServeError("Nobody waits for this film any more.")
