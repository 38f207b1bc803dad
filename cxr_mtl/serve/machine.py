"""How many workers suit this machine."""

from __future__ import annotations

from pathlib import Path

from cxr_mtl.cores import main_memory, num_cores

SHARE_OF_FRONT_END = 0.375
"""Of the memory: Java's heap is a quarter, and what is beside it (4.4 of 12 GiB in all, ``benchmarks/bodies.py``)."""
MEMORY_OF_WORKER = int(3.6 * 2**30)
"""Bytes: the largest film that is let in, a batch of them, and a model; a usual worker holds a third of it."""
MOST_WORKERS = 8
_GPUS = Path("/proc/driver/nvidia/gpus")


def pick_workers(*, gpus: Path = _GPUS) -> int:
    """One a GPU; without, as many as there are cores and memory for, which share the cores.

    Films are judged independently, so workers of one thread answer more of them than one worker of many threads, which
    waits for its own parts (``benchmarks/serve.py``); one that is busy alone borrows the others' cores.
    """
    if gpus.is_dir():
        return max(1, len(list(gpus.iterdir())))
    room = main_memory() * (1 - SHARE_OF_FRONT_END)
    return max(1, min(num_cores(), int(room // MEMORY_OF_WORKER), MOST_WORKERS))
