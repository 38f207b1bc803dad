"""A training process keeps its memory: a large block that comes and goes is not asked of the system each time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
if sys.argv[1] == "kept":
    from cxr_mtl.engine.memory import keep_memory
    keep_memory()
def step():
    torch.zeros(64 << 20, dtype=torch.uint8).add_(1)  # more than glibc ever keeps by itself
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting, and this is another C library")
def test_a_block_that_comes_and_goes_faults_once() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    # A system short of memory takes pages back meanwhile, which adds to the count and never takes from it.
    as_it_comes = faults("as it comes")
    assert any(faults("kept") < as_it_comes / 10 for _ in range(3))
