"""How many workers suit this machine."""

from __future__ import annotations

from pathlib import Path

import psutil

from cxr_mtl.cores import num_cores

MEMORY_OF_WORKER = 3 << 30
"""Bytes: the largest film that is let in, a batch of them, and a model; a usual worker holds a third of it."""
MOST_WORKERS = 8
_GPUS = Path("/proc/driver/nvidia/gpus")


def pick_workers(*, gpus: Path = _GPUS) -> int:
    """One a GPU; without, as many as there are cores and memory for, which share the cores.

    Films are judged independently, so workers of one thread answer more of them than one worker of many threads, which
    waits for its own parts (``benchmarks/serve.py``). For few callers who want their answer soon, give one worker all.
    """
    if gpus.is_dir():
        return max(1, len(list(gpus.iterdir())))
    return max(1, min(num_cores(), psutil.virtual_memory().total // MEMORY_OF_WORKER, MOST_WORKERS))
