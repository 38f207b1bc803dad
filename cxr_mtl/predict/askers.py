"""Who answers many films: a server, or a bundle here (bundle_asker.py)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from cxr_mtl.errors import ImageError
from cxr_mtl.predict.remote import RemotePredictor
from cxr_mtl.types import Options, Prediction

Results = list[Prediction | ImageError]


class Asker(Protocol):
    """Answers in two steps: threads prepare film by film, then whole batches are judged in order.

    Attributes:
        threads: that prepare.
        model: what it is known by before it has answered.
    """

    threads: int
    model: dict[str, str]

    def prepare(self, source: Path) -> Any: ...

    def judge(self, prepared: Sequence[Any]) -> Results: ...

    def give_up(self) -> None:
        """Nobody waits for what is being prepared any more."""
        ...


class ServerAsker:
    """Asks while it prepares; the model's hash is known from the answers alone."""

    def __init__(self, remote: RemotePredictor, options: Options) -> None:
        self.threads, self.model = remote.concurrency, {"name": remote.model}
        self._remote, self._options, self._over = remote, options, threading.Event()

    def prepare(self, source: Path) -> Prediction | ImageError:
        return self._remote.predict_one(source, self._options, self._over)

    def judge(self, prepared: Sequence[Prediction | ImageError]) -> Results:
        return list(prepared)

    def give_up(self) -> None:
        self._over.set()
