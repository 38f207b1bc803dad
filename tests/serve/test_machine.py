"""Workers from cores, memory and GPUs."""

from __future__ import annotations

import pytest

from cxr_mtl.serve import machine

GIB = 2**30


def of(monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: float, gpus: list[int] | None = None) -> int:
    """Workers of a machine like this."""
    monkeypatch.setattr(machine, "num_cores", lambda: cores)
    monkeypatch.setattr(machine, "main_memory", lambda: int(gigabytes * GIB))
    monkeypatch.setattr(machine, "gpu_memories", lambda: [size * GIB for size in gpus or []])
    return machine.pick_workers()


@pytest.mark.parametrize(
    ("cores", "gigabytes", "workers"), [(1, 64, 1), (2, 24, 2), (4, 8, 1), (64, 512, 8), (4, 1, 1), (16, 12.5, 2)]
)
def test_cores_and_memory_bound_them(
    monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: float, workers: int
) -> None:
    assert of(monkeypatch, cores, gigabytes) == workers


@pytest.mark.parametrize(
    ("cores", "gpus", "workers"),
    [(16, [139], 8), (64, [80, 80], 16), (16, [8], 2), (16, [2], 1), (2, [80] * 4, 4), (16, [80, 8], 4), (16, [0], 1)],
)
def test_a_gpu_serves_as_many_as_its_memory_has_room_for_and_each_has_one(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: list[int], workers: int
) -> None:
    assert of(monkeypatch, cores, 512, gpus) == workers
