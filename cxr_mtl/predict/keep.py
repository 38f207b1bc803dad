"""What ``predict`` asks of whoever keeps its answers as reports; that room, ``export``, lies a floor above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cxr_mtl.types import Prediction


@dataclass(frozen=True)
class Kept:
    """The reports of one film: format to file, and what the answer has that a format could not hold, in words."""

    files: dict[str, str]
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"files": self.files, "left_out": list(self.left_out)}


class Keeper(Protocol):
    """``export.Reports``.

    Attributes:
        shows_maps: whether any of its formats holds heat maps.
        wants_maps: whether one of them is made of heat maps, so that those of what is flagged are asked for.
    """

    shows_maps: bool
    wants_maps: bool

    def begin(self, files: Sequence[Path]) -> None:
        """Called once, with all films, before the first is judged."""

    def write(self, file: Path, prediction: Prediction) -> Kept:
        """Write a film's reports, or raise ``ImageError``."""
