"""What the steps of a run were: losses, pace, waiting, and how long the rest will take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cxr_mtl.engine.distributed import mean_over_ranks
from cxr_mtl.engine.engine import DIVERGED
from cxr_mtl.errors import EngineError
from cxr_mtl.train.log import RunLog, Step
from cxr_mtl.train.objective import HEADS

EVERY = 10  # forward passes between looks
NAMES = (*HEADS, "total")


class Meter:
    """Keeps losses where they were computed and looks at them every few steps: each look makes a GPU wait."""

    def __init__(self, log: RunLog | None, *, epochs: int, batches: int, films: int) -> None:
        """Begin with nothing.

        Args:
            log: of the run, on the first rank.
            epochs: of the run.
            batches: forward passes an epoch.
            films: in a forward pass, over all ranks.
        """
        self._log, self._epochs, self._batches, self._films = log, epochs, batches, films
        self._seen: list[tuple[int, int, float, Tensor]] = []
        self._bar: Any = None
        self._left = 0  # forward passes
        self._since = self._waited = 0.0
        self._step_seconds = self._epoch_seconds = 0.0
        self._measured = 0

    @contextmanager
    def epoch(self, epoch: int, done: int) -> Iterator[None]:
        """Measure an epoch from its batch ``done`` on."""
        self._left = (self._epochs - epoch) * self._batches - done
        self._since, self._waited = time.monotonic(), 0.0
        title = f"epoch {epoch + 1}/{self._epochs}"
        hidden = None if self._log else True
        with tqdm(total=self._batches, initial=done, desc=title, disable=hidden, leave=False) as self._bar:
            yield
            self.look()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent on anything but steps."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    @contextmanager
    def between(self) -> Iterator[None]:
        """The end of an epoch, validation above all: counts for what is left, not for the pace."""
        started = time.monotonic()
        yield
        self._epoch_seconds = time.monotonic() - started

    def add(self, epoch: int, step: int, lr: float, losses: Mapping[str, Tensor]) -> None:
        """One forward pass of this rank."""
        self._seen.append((epoch, step, lr, torch.stack([losses[name].detach().float() for name in NAMES])))
        self._left -= 1
        self._bar.update()
        if len(self._seen) >= EVERY:
            self.look()

    def look(self) -> None:
        """Log what was added since the last look.

        Raises:
            EngineError: on every rank, where a loss is no number any more.
        """
        if not self._seen:
            return
        means = mean_over_ranks(torch.stack([values for *_, values in self._seen])).tolist()
        now = time.monotonic()
        taken, num = max(now - self._since, 1e-9), len(self._seen)
        pace, wait = num * self._films / taken, self._waited / taken
        steps = [
            Step(epoch, step, lr, dict(zip(NAMES, row, strict=True)), pace, wait)
            for (epoch, step, lr, _), row in zip(self._seen, means, strict=True)
        ]
        self._seen.clear()
        self._since, self._waited = now, 0.0
        self._step_seconds += taken
        self._measured += num
        wrong = next((s for s in steps if not all(map(math.isfinite, s.losses.values()))), None)
        good = steps[: steps.index(wrong)] if wrong else steps
        if self._log:
            self._log.steps(good)
        if wrong:
            raise _diverged(wrong.epoch, wrong.step).on_all_ranks()
        shown = " ".join(f"{name} {steps[-1].losses[name]:.3f}" for name in HEADS)
        self._bar.set_postfix_str(f"{shown} {pace:.0f} images/s, {self.left()}")

    def left(self) -> str:
        """How long the run will still take, in words."""
        seconds = self._left * self._step_seconds / max(1, self._measured)
        return duration(seconds + math.ceil(self._left / self._batches) * self._epoch_seconds) + " left"


def _diverged(epoch: int, step: int) -> EngineError:
    return EngineError(f"The loss is no longer a number (epoch {epoch + 1}, step {step}).", hint=DIVERGED)


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
