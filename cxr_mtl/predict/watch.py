"""How long the steps of an answer took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Seconds, for one batch.

    Attributes:
        answer: of the batch from its bodies to its answers.
        preprocess: of each film, from its file to the model's input; a film that was refused included.
        model: of each pass through the model, from inputs to numbers; heat maps are not in it.
        again: films that were looked at a second time, of each second pass.
    """

    answer: list[float] = field(default_factory=list)
    preprocess: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)
    again: list[int] = field(default_factory=list)


@contextmanager
def lap(laps: list[float]) -> Iterator[None]:
    """Adds the seconds that its block takes, however it ends."""
    start = time.perf_counter()
    try:
        yield
    finally:
        laps.append(time.perf_counter() - start)
