"""The predictor that asks a running server. Same verbs and same answers as the local one."""

from __future__ import annotations

import json
import re
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import httpx

from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.predict.ahead import in_order
from cxr_mtl.predict.wire import Pause, Server, Turn, json_object, name_of, read_film
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


class RemotePredictor:
    """Films to a server, answers back. Its connections stay open until ``close``, or until nobody holds it any more.

    Several threads may ask it at once. What breaks on the way, and a server that is busy (503, 429), is asked again
    after a pause that grows, not before the server's Retry-After; a refusal (other 4xx) is final.

    Args:
        url: the server's inference address.
        key: the inference key; None for a server without authorisation.
        model: the name it serves the model under.
        timeout: seconds one film may take: the server's queue, pauses and further tries included.
        concurrency: films under way at once, so that the server can batch them.
        retries: further tries of one film.
        ca: PEM file of the certificate, or its authority, that the server is to show; None for the usual authorities.
        transport: instead of the network, for tests.

    Raises:
        ServeError: ``ca`` holds no certificate.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        model: str = "cxr_mtl",
        *,
        timeout: float = 120.0,
        concurrency: int = 4,
        retries: int = 3,
        ca: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self.concurrency = concurrency
        self._server = Server(self.url, key, model, timeout, retries)
        self._client = httpx.Client(transport=transport, **self._server.client_settings(concurrency, ca))
        self._end = weakref.finalize(self, self._client.close)

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

        def ask(source: Path | bytes) -> Prediction | ImageError:
            return self.predict_one(source, options)

        return in_order(ask, sources, threads=self.concurrency, ahead=2 * self.concurrency)

    def predict_one(self, source: Path | bytes, options: Options = DEFAULT_OPTIONS) -> Prediction | ImageError:
        """One film's answer; raises as ``predict``."""
        film = read_film(source)
        if isinstance(film, ImageError):
            return film
        turn = Turn(self._server, film, options, name_of(source))
        while True:
            try:
                said: httpx.Response | Exception = self._client.post(turn.url, timeout=turn.timeout, **turn.post)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                said = error
            heard = turn.hear(said)
            if not isinstance(heard, Pause):
                return heard
            time.sleep(heard.seconds)

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

    def __repr__(self) -> str:
        return f"RemotePredictor({self.url!r}, model={self.model!r})"
