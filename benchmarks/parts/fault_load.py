"""Callers who ask a server all the time and compare every answer with one that was computed without it."""

from __future__ import annotations

import io
import math
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from parts.fuzz_films import dicom
from PIL import Image

from cxr_mtl.bundle import GATE, load_bundle, save_bundle
from cxr_mtl.errors import ImageError
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.remote import read_key

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Answer:
    """One request: clock times in seconds; ``status`` is None where the connection broke without one.

    ``good`` is the right answer of ``version``; ``wrong`` another answer to the film. A refusal is neither.
    """

    sent: float
    ended: float
    status: int | None
    said: str
    version: str | None = None
    good: bool = False
    wrong: bool = False


@dataclass(frozen=True)
class Film:
    """One of which the right answer is known, by model version."""

    content: bytes
    right: Mapping[str, Any]


class Load:
    """``threads`` callers, each with one connection, who ask again as soon as they are answered. Nobody retries.

    ``right`` holds, by model version, the right answer to each film.
    """

    def __init__(
        self, url: str, key_file: Path, films: Sequence[bytes], right: Mapping[str, Sequence[Any]], threads: int
    ):
        self.headers = {"Authorization": f"Bearer {read_key(key_file)}"}
        self.path, self.films = httpx.URL(url).path, films
        self._url, self._right = url, right
        self._answers: list[Answer] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(i,), daemon=True) for i in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=180)

    def answers(self, since: float = 0.0, until: float = math.inf) -> list[Answer]:
        """Those that ended in that time, in the order of their ends."""
        return [answer for answer in list(self._answers) if since <= answer.ended < until]

    def recovery(self, fault: float, patience: float = 90.0) -> float:
        """Waits for the first good answer to a request that was sent after the fault; seconds from the fault to it."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            for answer in self.answers(since=fault):
                if answer.good and answer.sent >= fault:
                    return answer.ended - fault
            time.sleep(0.02)
        return math.inf

    def add(self, answers: Sequence[Answer]) -> None:
        """Counts those of other callers too."""
        self._answers += answers

    def once(self, film: Film) -> Answer:
        """Asks for another film, and counts it."""
        with self._client() as client:
            answer = self._ask(client, film.content, film.right)
        self._answers.append(answer)
        return answer

    def _client(self) -> httpx.Client:
        return httpx.Client(headers=self.headers, timeout=httpx.Timeout(150, connect=10), trust_env=False)

    def _ask_on(self, start: int) -> None:
        index = start
        with self._client() as client:
            while not self._stop.is_set():
                index = (index + 1) % len(self.films)
                right = {version: answers[index] for version, answers in self._right.items()}
                answer = self._ask(client, self.films[index], right)
                self._answers.append(answer)
                if not answer.good:
                    self._stop.wait(0.05)  # Who is refused at once would otherwise ask thousands of times.

    def _ask(self, client: httpx.Client, film: bytes, right: Mapping[str, Any]) -> Answer:
        sent = time.monotonic()
        try:
            response = client.put(self._url, content=film)
            ended, body = time.monotonic(), response.json()
        except (httpx.HTTPError, ValueError) as error:
            return Answer(sent, time.monotonic(), None, type(error).__name__)
        said = body.get("message") or body.get("error", {}).get("code", "")
        if response.status_code >= 500 or not {"schema", "error"} & body.keys():
            return Answer(sent, ended, response.status_code, said)
        fitting = [version for version, answer in right.items() if same([response.status_code, body], answer)]
        version = fitting[0] if fitting else None
        return Answer(sent, ended, response.status_code, said, version, good=bool(fitting), wrong=not fitting)


def same(answer: Any, right: Any) -> bool:
    """The same words, and the same numbers to 1e-4."""
    ours, theirs = list(flat(answer)), list(flat(right))
    return len(ours) == len(theirs) and all(
        abs(a - b) <= TOLERANCE if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(ours, theirs, strict=True)
    )


def flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key in sorted(value):
            yield key
            yield from flat(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from flat(item)
    else:
        yield value


def longest_gap(answers: Sequence[Answer], since: float, until: float) -> float:
    """Seconds between one right answer and the next, at most, in that time; the last one before it counts too."""
    ends = sorted(answer.ended for answer in answers if answer.good and answer.ended < until)
    moments = [*ends[max(bisect_left(ends, since) - 1, 0) :], until]
    return max((later - one for one, later in pairwise(moments)), default=until - since)


def right_answers(bundle: Path, films: Sequence[bytes]) -> list[Any]:
    """Status and body that a server of this bundle must answer each film with, computed in this process."""
    answers = LocalPredictor(bundle).predict(films)
    return [[answer.status if isinstance(answer, ImageError) else 200, answer.to_dict()] for answer in answers]


def draw_films(number: int, side: int) -> list[bytes]:
    """PNGs of coarse noise, each another and none square, so that an answer cannot pass for its neighbour's."""
    films = []
    for index in range(number):
        noise = np.random.default_rng(index).integers(0, 256, (side // 10, side // 8), dtype=np.uint8)
        film = io.BytesIO()
        Image.fromarray(np.kron(noise, np.ones((10, 10 + index), np.uint8))).save(film, "PNG")
        films.append(film.getvalue())
    return films


def draw_huge() -> bytes:
    """A PNG of 36 million pixels that is small to send."""
    coarse = np.random.default_rng(0).integers(0, 256, (600, 600), dtype=np.uint8)
    film = io.BytesIO()
    Image.fromarray(np.kron(coarse, np.ones((10, 10), np.uint8))).save(film, "PNG", compress_level=1)
    return film.getvalue()


def draw_large(megabytes: int) -> bytes:
    """A DICOM film of that size, one byte a pixel and not compressed; neither square nor like another size's."""
    side = math.isqrt(megabytes * 1_000_000 // 80)
    coarse = np.random.default_rng(megabytes).integers(0, 256, (side, side), dtype=np.uint8)
    return dicom(np.kron(coarse, np.ones((8, 10), np.uint8)))


def next_version(bundle: Path, folder: Path) -> Path:
    """The bundle as its next version, with weights that answer otherwise, so that the two can be told apart."""
    loaded = load_bundle(bundle)
    weights = {name: value * 1.01 for name, value in loaded.model.state_dict().items() if value.is_floating_point()}
    description = replace(loaded.description, version=f"{loaded.version}.1")
    gate = (bundle / GATE).read_bytes() if loaded.gate else None
    save_bundle(folder, description, loaded.model.state_dict() | weights, {}, gate)
    return folder
