"""The run's log: one JSON object a line, steps and epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class RunLog:
    """Appends to ``log.jsonl`` and knows the mean loss of the epoch under way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._losses: list[float] = []

    def start(self) -> None:
        """Begin an empty log."""
        self._path.write_text("")

    def resume(self, epoch: int) -> None:
        """Forget the lines of ``epoch`` and later: they are about to be written again."""
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the line a kill cut short, and nothing is after it
            if entry["epoch"] <= epoch:
                kept.append(line)
        self._path.write_text("".join(f"{line}\n" for line in kept))

    def step(self, epoch: int, step: int, lr: float, losses: Mapping[str, float], images_per_s: float) -> None:
        """One forward pass."""
        self._losses.append(losses["total"])
        self._write(
            {"event": "step", "epoch": epoch + 1, "step": step, "lr": lr, "loss": dict(losses)}
            | {"images_per_s": round(images_per_s, 1)}
        )

    def epoch(self, epoch: int, scores: Mapping[str, float], *, best: bool) -> float:
        """The end of an epoch; gives its mean loss."""
        loss = sum(self._losses) / max(1, len(self._losses))
        self._losses.clear()
        stated = {name: None if math.isnan(value) else value for name, value in scores.items()}
        self._write({"event": "epoch", "epoch": epoch + 1, "loss": loss, "validation": stated, "best": best})
        return loss

    def _write(self, entry: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
