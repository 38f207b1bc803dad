"""Workers from cores, memory and GPUs."""

from __future__ import annotations

from pathlib import Path

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
    ("cores", "gpus", "workers"), [(16, [139], 8), (64, [80, 80], 16), (16, [8], 2), (16, [2], 1), (2, [80] * 4, 4)]
)
def test_a_gpu_serves_as_many_as_its_memory_has_room_for_and_each_has_one(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: list[int], workers: int
) -> None:
    assert of(monkeypatch, cores, 512, gpus) == workers


@pytest.mark.parametrize(
    ("said", "found"), [("echo 81559; echo 24576", [81559 << 20, 24576 << 20]), ("echo none", []), ("exit 9", [])]
)
def test_memory_of_gpus_is_what_nvidia_smi_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, found: list[int]
) -> None:
    asked = tmp_path / "nvidia-smi"
    asked.write_text(f"#!/bin/sh\n{said}\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.gpu_memories() == found


def test_a_machine_without_nvidia_smi_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu_memories() == []
