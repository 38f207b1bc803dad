"""FastAPI + uvicorn as a careful engineer batches with them: what waits is taken together, nobody is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from serve_peer import HOST, Peer, setting


class Batcher:
    """One thread decodes, another runs the network on up to ``batch`` films."""

    def __init__(self, peer: Peer, batch: int) -> None:
        self._peer, self._batch = peer, batch
        self._decoding, self._judging = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()

    async def answer(self, body: bytes) -> Any:
        loop = asyncio.get_running_loop()
        film = await loop.run_in_executor(self._decoding, self._peer.prepare, body)
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.put_nowait((film, answer))
        return await answer

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            taken = [await self._waiting.get()]
            while len(taken) < self._batch and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
            answers = await loop.run_in_executor(self._judging, self._peer.judge, [film for film, _ in taken])
            for (_, future), answer in zip(taken, answers, strict=True):
                future.set_result(answer)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    here = setting()
    app.state.batcher = Batcher(Peer(here.bundle, here.threads), here.batch)
    running = asyncio.create_task(app.state.batcher.run())
    yield
    running.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> Any:
    return await app.state.batcher.answer(await request.body())


if __name__ == "__main__":
    told = setting()
    # A worker that imports torch for more than uvicorn's 5 s would be ended and started again, for ever.
    patience = {"timeout_worker_healthcheck": 120}
    uvicorn.run("serve_fastapi:app", host=HOST, port=told.port, workers=told.workers, log_level="warning", **patience)
