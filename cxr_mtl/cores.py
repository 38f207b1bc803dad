"""How many cores there are for us: a container's quota counts, and not only whose cores it may use."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of control groups, version 2: microseconds of CPU in each period


def num_cores(quota: Path = _QUOTA) -> int:
    """At least 1; a part of a core counts as one more."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        spent, period = quota.read_text(encoding="ascii").split()
        return max(1, min(ours, -(-int(spent) // int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no control group, or "max"
        return ours
