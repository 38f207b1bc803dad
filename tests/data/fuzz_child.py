"""Read damaged films, one after another, in a process that may crash, hang or run out of memory: the test watches it.

Replay one with ``python tests/data/fuzz_child.py NUMBER 1``. Prints the number of each case before it is read, and at
the end what came of all, as JSON.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from fuzz_cases import case, files

from cxr_mtl.data.read import read_image
from cxr_mtl.data.refuse import STATUS
from cxr_mtl.errors import ImageError
from cxr_mtl.types import Radiograph

ADDRESS_SPACE = 3 << 30  # beyond what is taken at the start
SECONDS = 10  # a case; the alarm ends the process even inside a decoder


class Kept(logging.Handler):
    """Counts what is logged; nothing may be."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("PIL."):  # which tells of a PNG's parts, by kind and place, at DEBUG
            self.said.append(record.getMessage())


def outcome(data: bytes) -> str:
    """``read`` or the code of the refusal; an AssertionError where either is not as promised."""
    try:
        film = read_image(data, name="film")
    except ImageError as refused:
        error = refused
    else:
        return _checked(film)
    assert error.status == STATUS[error.code], error.code
    assert error.hint, "no hint"
    assert error.message.startswith("film "), error.message
    assert "\n" not in str(error), "more than one line"
    return error.code


def _checked(film: Radiograph) -> str:
    assert film.pixels.dtype == np.float32, film.pixels.dtype
    assert film.pixels.ndim == 2, film.pixels.shape
    assert np.isfinite(film.pixels).all(), "not finite"
    assert film.pixels.min() >= 0, "below 0"
    assert film.pixels.max() <= 1, "above 1"
    return "read"


def peak_mb() -> float:
    """Most memory that this process ever had; ``ru_maxrss`` would count what the process that started it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main(first: int, count: int) -> int:
    handler = Kept()
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    for kind, data in files().items():
        assert outcome(data) == "read", kind
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESS_SPACE,) * 2)
    handler.said.clear()  # of making the files
    before = peak_mb()
    came, slowest = Counter[str](), (0.0, first)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number in range(first, first + count):
            what, data = case(number)
            sys.stdout.write(f"{number} {what}\n")
            sys.stdout.flush()
            signal.alarm(SECONDS)
            began = time.perf_counter()
            came[outcome(data)] += 1
            slowest = max(slowest, (time.perf_counter() - began, number))
            signal.alarm(0)
            assert not warned, str(warned[0].message)
            assert not handler.said, handler.said[0]
    grown = peak_mb() - before
    apart = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    summary = {"came": came, "slowest": slowest, "grown_mb": grown, "apart_mb": apart / 1024}
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
