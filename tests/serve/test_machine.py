"""Workers from cores, memory and GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_mtl.serve import machine


@pytest.mark.parametrize(
    ("cores", "gigabytes", "workers"), [(1, 64, 1), (2, 24, 2), (4, 8, 1), (64, 512, 8), (4, 1, 1), (16, 12.5, 2)]
)
def test_cores_and_memory_bound_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int, gigabytes: float, workers: int
) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: cores)
    monkeypatch.setattr(machine, "main_memory", lambda: int(gigabytes * 2**30))
    assert machine.pick_workers(gpus=tmp_path / "none") == workers


def test_each_gpu_has_one(tmp_path: Path) -> None:
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert machine.pick_workers(gpus=tmp_path) == 2
