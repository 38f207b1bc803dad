"""Workers side by side that lend each other their cores.

A core each is best for many callers, since nobody waits for parts of a film; but one caller alone would have the other
cores idle. So a worker says when it is busy, and one that is the only one uses all cores for a film's network.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cxr_mtl.cores import num_cores

PATIENCE = 0.5
"""Seconds to wait for a neighbour that has all cores: several passes of a network. One that hangs holds nobody up."""
_PAUSE = 0.0005
_logger = logging.getLogger(__name__)


class Neighbours:
    """Who is busy, by a lock on a file: shared while a worker has requests, exclusive while it has all cores.

    The kernel releases the lock of a worker that dies.

    Attributes:
        cores: all there are, counted once: networks are compiled for this number.
    """

    def __init__(self, file: Path) -> None:
        """Join those who share ``file``, which is made if it is not there.

        Raises:
            OSError: it cannot be made, or is another's.
        """
        self.cores = num_cores()
        self._shared = False
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """From a request to its answer; begins when no neighbour has all cores, or ``PATIENCE`` is over."""
        self._share()
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    @contextmanager
    def all_cores(self) -> Iterator[None]:
        """Within ``busy``: torch may use all cores until the end of the block, if no neighbour is busy."""
        if not self._alone():
            yield
            return
        usual = torch.get_num_threads()
        torch.set_num_threads(self.cores)
        try:
            yield
        finally:
            torch.set_num_threads(usual)
            self._share()

    def _alone(self) -> bool:
        if not self._shared:  # a neighbour hangs with all cores: it was waited for once
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # asking has cost us our share
            self._share()
            return False
        return True

    def _share(self) -> None:
        self._shared, deadline = False, time.monotonic() + PATIENCE
        while not self._shared:
            try:
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self._shared = True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return
                time.sleep(_PAUSE)


def neighbours_here() -> Neighbours | None:
    """This user's workers that share a temporary folder, as those of a server do; None where no file can be shared."""
    try:
        return Neighbours(Path(tempfile.gettempdir()) / f"cxr_mtl_cores_{os.getuid()}")
    except OSError as error:
        _logger.warning("Workers do not lend each other their cores: %s", error.strerror)
        return None
