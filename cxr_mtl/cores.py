"""How many cores and how much memory there are for us: what a container may use counts, and not what its host has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of control groups, version 2: microseconds of CPU in each period
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # versions 2 and 1


def num_cores(quota: Path = _QUOTA) -> int:
    """At least 1; a part of a core counts as one more."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        spent, period = quota.read_text(encoding="ascii").split()
        return max(1, min(ours, -(-int(spent) // int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no control group, or "max"
        return ours


def main_memory(limits: Sequence[Path] = _LIMITS) -> int:
    """Bytes that there are, for all that runs here together."""
    least = psutil.virtual_memory().total
    for limit in limits:
        try:
            least = min(least, int(limit.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no control group of this version, or "max"
            continue
    return least
