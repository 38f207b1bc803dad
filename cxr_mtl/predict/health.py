"""A server's worker that cannot answer any more ends, so that a fresh one takes its place."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Collection
from http import HTTPStatus

MOST_FAULTS = 3
_SOON = 0.2
_logger = logging.getLogger(__name__)


def end_soon() -> None:
    """Ends this process, after what was answered has left it. By an alarm: a thread would want memory."""
    signal.setitimer(signal.ITIMER_REAL, _SOON)


class Health:
    """Looks at what was answered for signs that the worker is spoilt.

    There are faults that a process keeps. Where oneDNN had no memory to make a convolution, it remembers that it failed
    and never tries again, so that films of some batches fail for good; after a failed assertion on a GPU every later
    call fails. A film that trips the model harms no worker that answers others.

    Args:
        end: what ends the worker.
    """

    def __init__(self, end: Callable[[], None] = end_soon) -> None:
        self._end = end
        self._faults = 0
        self._ending = False

    def note(self, statuses: Collection[int], codes: Collection[str] = ()) -> None:
        """Takes a batch's HTTP statuses and its films' codes; ends a worker without memory, or three times no answer.

        A request of several films may be 200 where one of them found no memory.
        """
        self._faults = self._faults + 1 if statuses and min(statuses) >= 500 else 0
        spoilt = HTTPStatus.INSUFFICIENT_STORAGE in statuses or "out_of_memory" in codes or self._faults >= MOST_FAULTS
        if spoilt and not self._ending:  # Once: told again, the alarm would begin anew.
            self._ending = True
            _logger.error("No memory, or nothing of %d batches answered: this worker ends", MOST_FAULTS)
            self._end()
