"""The journal of a run, ``log.jsonl``: one JSON object a line."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cxr_mtl.errors import EngineError

logger = logging.getLogger("cxr_mtl.engine")


class Journal:
    """Appends lines, and forgets those that are about to be written again.

    A line has an ``event`` (``step`` or ``epoch``) and its ``epoch``, counted from 1; that of a step has its ``step``,
    counted from 1 through the whole run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self) -> None:
        """Begin an empty one."""
        with self._disk():
            self.path.write_text("")

    def resume(self, epochs: int, steps: int) -> list[dict[str, Any]]:
        """Forget what came after a checkpoint; gives what stays. Where there is none, a new one begins.

        Args:
            epochs: that the checkpoint has finished.
            steps: optimizer steps that it has taken.
        """
        kept: list[dict[str, Any]] = []
        for line in self._lines():
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the line a kill cut short, and nothing is after it
            if entry["epoch"] <= epochs or (entry["event"] == "step" and entry["step"] <= steps):
                kept.append(entry)
        part = self.path.with_suffix(".part")
        with self._disk():
            try:
                part.write_text("".join(f"{json.dumps(entry)}\n" for entry in kept))
                part.replace(self.path)
            finally:
                part.unlink(missing_ok=True)  # half of one, where the disk is full
        return kept

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            EngineError: the disk is full or fails.
        """
        with self._disk(), self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text().splitlines()
        except FileNotFoundError:
            logger.warning("%s is gone; a new one begins with the next step.", self.path)
            return []
        except (OSError, ValueError) as error:
            what = f"{self.path} cannot be read: {getattr(error, 'strerror', None) or error}."
            raise EngineError(what, hint="Mend or remove it, and go on with --resume.") from None

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"{self.path} cannot be written: {error.strerror or error}."
            raise EngineError(what, hint="Make room, and go on with --resume.") from None


def stated(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures as JSON knows them: what is no number is None."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
