"""How long the steps of an answer took, and may take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cxr_mtl.errors import ImageError


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Seconds, for one batch.

    Attributes:
        answer: of the batch from its bodies to its answers.
        preprocess: of each film, from its file to the model's input; a film that was refused included.
        model: of each pass through the model, from inputs to numbers; heat maps are not in it.
        again: films that were looked at a second time, of each second pass.
        end: of ``time.monotonic``; when it has come, no further step of a heat map begins.
    """

    answer: list[float] = field(default_factory=list)
    preprocess: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    end: float = math.inf


@contextmanager
def lap(laps: list[float]) -> Iterator[None]:
    """Adds the seconds that its block takes, however it ends."""
    start = time.perf_counter()
    try:
        yield
    finally:
        laps.append(time.perf_counter() - start)


def check_end(end: float) -> None:
    """Between the steps of what takes long.

    Args:
        end: of ``time.monotonic``.

    Raises:
        ImageError: code ``busy``, status 503: it has come.
    """
    if time.monotonic() > end:
        raise late()


def late() -> ImageError:
    """The error of a film for which no time was left."""
    hint = "Ask again, with fewer films or heat maps a request."
    return ImageError("There was no time left for this film.", code="busy", status=503, hint=hint)
