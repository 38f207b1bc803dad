"""A pack while it grows: blocks of films in their final file, and a journal of the blocks that are whole.

P films, S input side. Each block is decoded in memory by several threads, written with one ordinary write (a full disk
is then an error; written through a memory map it would be the end of the process), and noted in the journal with its
checksum. Whoever was killed leaves draft and journal; the next run checks every noted block and goes on with the rest.
The draft's name says what it is a draft of: two runs that write the same draft write the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("cxr_mtl.data")

BLOCK_FILMS, BLOCK_BYTES = 256, 1 << 26  # one block in memory for each of two steps: at most 128 MB
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Film:
    """Width and height of a film's own file, pixels; 0 and a reason where it could not be read."""

    width: int
    height: int
    reason: str = ""
    again: bool = False
    """Whether it may be read another day: nothing is wrong with its bytes as far as anyone knows."""


@dataclass(frozen=True, slots=True)
class Block:
    """What the journal says of a block that is whole."""

    sha256: str
    films: tuple[Film, ...]


Decode = Callable[[int, NDArray[np.uint8]], Film]
"""Decodes the film of a row into an (S, S) array of zeros."""


class Draft:
    """An unfinished pack; goes on where a killed run with the same mark stopped.

    Attributes:
        images: the file that the films will be in.
        block: films a block.
    """

    def __init__(self, folder: Path, mark: str, num: int, side: int, *, live: str = "") -> None:
        self.images = folder / f"images-{mark}.npy"
        self.num, self.side = num, side
        self.block = max(1, min(BLOCK_FILMS, BLOCK_BYTES // side**2))
        self._part = folder / f"{self.images.name}.part"
        self._journal = folder / f"{self.images.name}.journal"
        header = BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (num, side, side)}
        )
        self._header = header.getvalue()
        if not self._part.exists() and self.images.exists() and self._journal.exists() and self.images.name != live:
            # Killed between the last block and the index. Whole, it stays: another process may be about to name it.
            self._done = self._whole_blocks(self.images)
            if not self._todo():
                return
            self.images.replace(self._part)
        if not self._part.exists():
            self._journal.unlink(missing_ok=True)
        self._done = self._whole_blocks(self._part)

    def fill(self, decode: Decode, pool: ThreadPoolExecutor, progress: Callable[[int], object]) -> None:
        """Decode, write and note the blocks that are not there yet.

        Raises:
            OSError: a block cannot be written, for want of room as a rule.
        """
        todo = self._todo()
        progress(sum(len(self._rows(block)) for block in self._done))
        if not todo:
            return
        self._check_room(todo)
        self._part.touch()  # never emptied: who writes at the same time writes the same
        with self._part.open("r+b") as part, self._journal.open("a", encoding="utf-8") as journal:
            part.write(self._header)
            for number, films, found in self._decoded(todo, decode, pool):
                part.seek(self._place(number))
                part.write(films.data)
                part.flush()
                block = Block(checksum(films), found)
                # A line cut short by a kill stands alone: the next run begins a new one.
                journal.write("\n" + json.dumps([number, block.sha256, [astuple(film) for film in found]]) + "\n")
                journal.flush()
                self._done[number] = block
                progress(len(found))

    def films(self) -> list[Film]:
        """What is known of each film, in order of row; all blocks must be there."""
        return [film for block in sorted(self._done) for film in self._done[block].films]

    def checksums(self) -> list[str]:
        """Of each block, in order."""
        return [self._done[block].sha256 for block in sorted(self._done)]

    def finish(self) -> None:
        """Put the whole file in its place, over that of an older pack: who has that one mapped still sees it."""
        try:
            with self._part.open("r+b") as part:
                os.fsync(part.fileno())
            self._part.replace(self.images)
        except FileNotFoundError:
            if not self.images.exists():  # else another process without locks was quicker, with the same bytes
                raise

    def sweep(self) -> None:
        """Remove what is left of other packs and drafts, once the index names this one's file."""
        for file in self.images.parent.glob("images*"):
            if file != self.images:
                file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Leave nothing to go on with."""
        self._part.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def _decoded(
        self, blocks: list[int], decode: Decode, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, NDArray[np.uint8], tuple[Film, ...]]]:
        """Blocks in order, each while the next is being decoded."""
        waiting: deque[tuple[int, NDArray[np.uint8], list[Future[Film]]]] = deque()
        try:
            for block in blocks:
                rows = self._rows(block)
                films = np.zeros((len(rows), self.side, self.side), dtype=np.uint8)
                waiting.append((block, films, [pool.submit(decode, row, films[i]) for i, row in enumerate(rows)]))
                if len(waiting) > 1:
                    yield self._result(*waiting.popleft())
            while waiting:
                yield self._result(*waiting.popleft())
        finally:  # a block could not be written: what is still to be decoded is for the next run
            for _, _, futures in waiting:
                for future in futures:
                    future.cancel()

    @staticmethod
    def _result(
        block: int, films: NDArray[np.uint8], futures: list[Future[Film]]
    ) -> tuple[int, NDArray[np.uint8], tuple[Film, ...]]:
        return block, films, tuple(future.result() for future in futures)

    def _todo(self) -> list[int]:
        return [block for block in range(-(-self.num // self.block)) if block not in self._done]

    def _place(self, block: int) -> int:
        return len(self._header) + block * self.block * self.side**2

    def _rows(self, block: int) -> range:
        return range(block * self.block, min((block + 1) * self.block, self.num))

    def _whole_blocks(self, images: Path) -> dict[int, Block]:
        """Blocks that the journal notes and whose bytes are still those noted."""
        if not self._journal.exists():
            return {}
        noted: dict[int, Block] = {}
        for line in self._journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                number, sha256, films = json.loads(line)
                noted[number] = Block(sha256, tuple(Film(*film) for film in films))
            except (ValueError, TypeError):  # empty, or cut short by a kill
                continue
        whole = {}
        with images.open("rb") as part:
            for number, block in noted.items():
                part.seek(self._place(number))
                found = part.read(len(self._rows(number)) * self.side**2)
                if hashlib.sha256(found).hexdigest() == block.sha256:
                    whole[number] = block
        return whole

    def _check_room(self, todo: list[int]) -> None:
        """Say before hours of decoding that the disk is too small."""
        needed = sum(len(self._rows(block)) for block in todo) * self.side**2
        free = shutil.disk_usage(self.images.parent).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def checksum(films: NDArray[np.uint8]) -> str:
    """SHA-256 of a block's bytes, (B, S, S)."""
    return hashlib.sha256(np.ascontiguousarray(films).data).hexdigest()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time write into a folder; the lock of one that was killed is gone with it.

    Where the file system has no locks, they work at once and write the same bytes: slower, but no harm.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: another process writes into this folder; waiting for it", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("%s: this file system has no locks (%s); start one at a time", folder, error.strerror)
        yield
