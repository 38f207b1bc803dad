"""Signals that ask a run to stop: it finishes its step, saves and goes.

SLURM sends SIGTERM when an allocation ends, and before that whatever ``--signal`` asks for; torchrun and DeepSpeed's
launcher pass SIGTERM on, also when another rank has ended. Each may send it twice.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from cxr_mtl.engine.distributed import largest

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Notes signals as long as the context lasts."""

    def __init__(self) -> None:
        self._asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python lets no other one listen
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """The signal that any rank has got, the same on all of them; 0 for none."""
        return largest(self._asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
