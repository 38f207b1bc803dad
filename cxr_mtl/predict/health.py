"""A server's worker that cannot answer any more ends, so that a fresh one takes its place."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection

MOST_FAULTS = 3
_SOON = 0.2
_logger = logging.getLogger(__name__)


def end_soon() -> None:
    """Ends this process, after what was answered has left it."""
    threading.Timer(_SOON, os._exit, (1,)).start()


class Health:
    """Counts batches in a row of which the worker could answer nothing.

    There are faults that a process keeps: where oneDNN had no memory to make a convolution, it remembers that it failed
    and never tries again; after a failed assertion on a GPU every later call fails. A film that trips the model harms
    no worker that answers others.

    Args:
        end: what ends the worker.
    """

    def __init__(self, end: Callable[[], None] = end_soon) -> None:
        self._end = end
        self._faults = 0

    def note(self, statuses: Collection[int]) -> None:
        """Takes the HTTP statuses of a batch that was answered; ends the worker at the third that was all faults."""
        self._faults = self._faults + 1 if statuses and min(statuses) >= 500 else 0
        if self._faults == MOST_FAULTS:
            _logger.error("Nothing of %d batches could be answered: this worker ends, to be started anew", MOST_FAULTS)
            self._end()
