"""Which GPUs there are for workers: an ``nvidia-smi`` that says what a test wants."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_mtl.errors import ServeError
from cxr_mtl.serve.gpus import gpu_memories

MIB = 2**20


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two GPUs."""
    asked = tmp_path / "nvidia-smi"
    asked.write_text("#!/bin/sh\necho 81559; echo 24576\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return asked


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [81559, 24576]),
        ("1", [24576]),
        ("1,0", [24576, 81559]),
        ("0, 1", [81559, 24576]),
        ("5", []),
        ("", []),
        ("-1", []),
    ],
)
def test_those_that_the_environment_leaves(smi: Path, visible: str | None, found: list[int]) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert gpu_memories(environ) == [size * MIB for size in found]


@pytest.mark.parametrize("visible", ["GPU-4e0dd3ab", "MIG-1", "0,x"])
def test_names_that_torchserve_cannot_read_are_one_line(smi: Path, visible: str) -> None:
    with pytest.raises(ServeError, match="reads numbers only") as caught:
        gpu_memories({"CUDA_VISIBLE_DEVICES": visible})
    assert "CUDA_VISIBLE_DEVICES=0,1" in str(caught.value)


def test_one_that_does_not_say_how_much_it_has_still_counts(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho '[N/A]'; echo 10\n")
    assert gpu_memories({}) == [0, 10 * MIB]


def test_without_a_driver_there_is_none(smi: Path) -> None:
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert gpu_memories({}) == []


def test_without_the_program_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_memories({}) == []
