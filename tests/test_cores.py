"""A container's quota and limit count."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from cxr_mtl.cores import main_memory, num_cores


@pytest.mark.parametrize(
    ("said", "cores"),
    [("max 100000", None), ("100000 100000", 1), ("150000 100000", 2), ("1000 100000", 1), ("x", None)],
)
def test_cores_are_those_of_the_quota(tmp_path: Path, said: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(said)
    ours = len(os.sched_getaffinity(0))
    assert num_cores(tmp_path / "cpu.max") == min(ours, cores or ours)
    assert num_cores(tmp_path / "none") == ours


@pytest.mark.parametrize(
    ("version_2", "version_1", "said"),
    [("4096", None, 4096), ("max", None, None), (None, "8192", 8192), (None, str(2**63 - 4096), None), ("x", "", None)],
)
def test_memory_is_that_of_the_limit(
    tmp_path: Path, version_2: str | None, version_1: str | None, said: int | None
) -> None:
    files = {tmp_path / "memory.max": version_2, tmp_path / "memory.limit_in_bytes": version_1}
    for file, content in files.items():
        if content is not None:
            file.write_text(f"{content}\n")
    assert main_memory(list(files)) == (said or psutil.virtual_memory().total)
