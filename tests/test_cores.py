"""A container's quota counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxr_mtl.cores import num_cores


@pytest.mark.parametrize(
    ("said", "cores"),
    [("max 100000", None), ("100000 100000", 1), ("150000 100000", 2), ("1000 100000", 1), ("x", None)],
)
def test_cores_are_those_of_the_quota(tmp_path: Path, said: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(said)
    ours = len(os.sched_getaffinity(0))
    assert num_cores(tmp_path / "cpu.max") == min(ours, cores or ours)
    assert num_cores(tmp_path / "none") == ours
