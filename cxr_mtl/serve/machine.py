"""How many workers suit this machine."""

from __future__ import annotations

from cxr_mtl.cores import main_memory, num_cores
from cxr_mtl.serve.gpus import gpu_memories

SHARE_OF_FRONT_END = 0.375
"""Of the memory: Java's heap is a quarter, and what is beside it (4.4 of 12 GiB in all, ``benchmarks/bodies.py``)."""
MEMORY_OF_WORKER = int(3.6 * 2**30)
"""Bytes: the largest film that is let in, a batch of them, and a model; a usual worker holds a third of it."""
GPU_MEMORY_OF_WORKER = 3 * 2**30
"""Bytes of a GPU: what CUDA takes of it for a process, a model, and its recorded passes; an estimate."""
MOST_WORKERS = 8
"""Of a machine, or of each of its GPUs."""


def pick_workers() -> int:
    """As many of a model as there are cores and memory for, which share the cores; at least one for each GPU.

    Films are judged independently, so workers of one thread answer more of them than one worker of many threads, which
    waits for its own parts (``benchmarks/serve.py``); one that is busy alone borrows the others' cores. A GPU is done
    with a film long before the next is read, so it serves several workers (``benchmarks/serve_gpu.py``); the server
    deals workers out to GPUs in turn, so the smallest one counts.

    Raises:
        ServeError: see ``gpu_memories``.
    """
    gpus = gpu_memories()
    room = int(main_memory() * (1 - SHARE_OF_FRONT_END) // MEMORY_OF_WORKER)
    most = len(gpus) * min(MOST_WORKERS, min(gpus) // GPU_MEMORY_OF_WORKER) if gpus else MOST_WORKERS
    return max(1, len(gpus), min(num_cores(), room, most))
