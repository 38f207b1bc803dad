"""The run's log: one JSON object a line, steps and epochs; the same for TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_mtl.engine.journal import Journal, stated

LOG, BOARD = "log.jsonl", "tensorboard"


@dataclass(frozen=True)
class Step:
    """One forward pass.

    Attributes:
        epoch: counted from 0.
        step: the optimizer step that it is part of, counted from 1.
        lr: learning rate of the heads after it.
        losses: by head, and ``total``; mean over ranks.
        images_per_s: pace of all ranks together.
        wait: share of the time spent waiting for films.
    """

    epoch: int
    step: int
    lr: float
    losses: Mapping[str, float]
    images_per_s: float
    wait: float


class RunLog:
    """Appends to ``log.jsonl`` and knows the mean loss of the epoch under way."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._journal = folder, Journal(folder / LOG)
        self._losses: list[float] = []
        self._board: Any = None

    def start(self) -> None:
        """Begin an empty log."""
        self._journal.start()
        self._open_board(0)

    def resume(self, epochs: int, steps: int) -> None:
        """Forget what came after a checkpoint: it is about to be written again.

        Args:
            epochs: that the checkpoint has finished.
            steps: optimizer steps that it has taken.
        """
        kept = self._journal.resume(epochs, steps)
        self._losses = [entry["loss"]["total"] for entry in kept if entry["epoch"] > epochs]
        self._open_board(steps + 1)

    def steps(self, steps: Iterable[Step]) -> None:
        """Some forward passes, in their order."""
        for step in steps:
            self._losses.append(step.losses["total"])
            measured = {"images_per_s": round(step.images_per_s, 1), "wait": round(step.wait, 4)}
            losses = {"lr": step.lr, "loss": dict(step.losses)}
            self._journal.write({"event": "step", "epoch": step.epoch + 1, "step": step.step} | losses | measured)
            named = {f"loss/{name}": value for name, value in step.losses.items()}
            self._draw(named | {"run/lr": step.lr} | {f"run/{n}": v for n, v in measured.items()}, step.step)

    def epoch(self, epoch: int, step: int, scores: Mapping[str, float], *, best: bool) -> float:
        """The end of an epoch, after some optimizer step; gives the epoch's mean loss."""
        loss = sum(self._losses) / max(1, len(self._losses))
        self._losses.clear()
        found = stated(scores)
        self._journal.write({"event": "epoch", "epoch": epoch + 1, "loss": loss, "validation": found, "best": best})
        known = {f"validation/{name}": value for name, value in found.items() if value is not None}
        self._draw(known | {"loss/epoch": loss}, step)
        return loss

    def close(self) -> None:
        """Write what TensorBoard has not been given yet."""
        if self._board:
            self._board.close()

    def _open_board(self, first: int) -> None:
        """Events of the step ``first`` and later that are there already are dropped by TensorBoard."""
        if importlib.util.find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # a second to import

        self._board = SummaryWriter(str(self._folder / BOARD), purge_step=first)

    def _draw(self, values: Mapping[str, float], step: int) -> None:
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()
