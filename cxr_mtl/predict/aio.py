"""The predictor that asks a running server, for programs of asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import httpx

from cxr_mtl.errors import ImageError
from cxr_mtl.predict.client import Client
from cxr_mtl.predict.wire import Pause, Turn, film_bytes, json_object, name_of
from cxr_mtl.types import DEFAULT_OPTIONS, Options, Prediction


class AsyncRemotePredictor(Client):
    """``RemotePredictor`` with its verbs awaited; arguments, answers, retries and errors are the same.

    Close it, best by ``async with``, in the loop that it was used in. It does not ask for fewer films at once where a
    server is busy.
    """

    def _open(self, **settings: Any) -> None:
        self._client = httpx.AsyncClient(**settings)

    async def predict(
        self, sources: Sequence[Path | bytes], options: Options = DEFAULT_OPTIONS
    ) -> list[Prediction | ImageError]:
        """As many answers as sources, in their order; raises ServeError as ``RemotePredictor.predict``."""
        async with aclosing(self.predict_iter(sources, options)) as answers:
            return [answer async for answer in answers]

    async def predict_iter(
        self, sources: Iterable[Path | bytes], options: Options = DEFAULT_OPTIONS
    ) -> AsyncGenerator[Prediction | ImageError]:
        """The same one by one, for more films than fit into memory: of either side only a few are held."""
        waiting: deque[asyncio.Task[Prediction | ImageError]] = deque()
        try:
            for source in sources:
                waiting.append(asyncio.create_task(self.predict_one(source, options)))
                if len(waiting) >= self.concurrency:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def predict_one(self, source: Path | bytes, options: Options = DEFAULT_OPTIONS) -> Prediction | ImageError:
        """One film's answer; raises as ``predict``."""
        film = await asyncio.to_thread(film_bytes, source)
        if isinstance(film, ImageError):
            return film
        turn = Turn(self._server, film, options, name_of(source))
        while True:
            try:
                said: httpx.Response | Exception = await self._client.post(turn.url, timeout=turn.timeout, **turn.post)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                said = error
            heard = turn.hear(said)
            if not isinstance(heard, Pause):
                return heard
            await asyncio.sleep(heard.seconds)

    async def healthy(self) -> bool:
        """Whether the server is there and has a worker for each model; never raises for a server that is not."""
        try:
            response = await self._client.get(f"{self.url}/ping", timeout=10.0)
        except (httpx.HTTPError, httpx.InvalidURL):
            return False
        return response.status_code == 200 and json_object(response).get("status") == "Healthy"

    async def close(self) -> None:
        """Close its connections; it cannot be asked any more."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
