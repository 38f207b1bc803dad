"""How glibc gives a training process its memory."""

from __future__ import annotations

import ctypes

# Names and numbers of glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3


def keep_memory() -> None:
    """Have glibc keep large blocks for the next step instead of giving them back and getting them anew, page by page.

    As it comes, a step of a small network on a CPU has some 15,000 page faults, and DeepSpeed, which gathers all
    gradients in one block, pays most for them (docs/speed.md). Elsewhere than with glibc nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((MMAP_THRESHOLD, 1 << 30), (TRIM_THRESHOLD, (1 << 31) - 1), (TOP_PAD, 1 << 26)):
        mallopt(option, value)
