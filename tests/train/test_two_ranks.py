"""Two ranks at every ZeRO stage: the same numbers, whole weights, no head that goes missing, clipping that clips."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from runs import ENVIRONMENT, PATIENCE, TORCHRUN, draw_films

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TORCHRUN_SCENE = (*TORCHRUN[:-2], str(Path(__file__).with_name("two_ranks.py")))


def scene(folder: Path, name: str) -> list[dict[str, Any]]:
    command = [*TORCHRUN_SCENE, str(folder), name]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line.partition("TOLD ")[2] for line in done.stdout.splitlines() if "TOLD " in line]
    return [json.loads(line) for line in lines]


def test_bundle_and_checkpoint_hold_the_live_weights_at_every_stage(tmp_path: Path) -> None:
    told = scene(draw_films(tmp_path), "stages")
    assert [t["stage"] for t in told] == [0, 1, 2, 3, 3]
    for entry in told:
        assert [rank["differing"] for rank in entry["ranks"]] == [[], []]
        assert max(rank["apart"] for rank in entry["ranks"]) < 1e-6
        assert entry["loss"] == pytest.approx(told[0]["loss"], rel=1e-5)


def test_a_rank_without_boxes_or_labels_learns_what_the_others_do(tmp_path: Path) -> None:
    told = scene(tmp_path, "silent")
    assert len(told) == 9
    for entry in told:
        assert entry["ranks"] == 0, entry
        assert entry["reference"] < 1e-3, entry  # of the way learned: Adam makes much of last digits


def test_gradients_are_clipped_at_every_stage(tmp_path: Path) -> None:
    told = scene(tmp_path, "clipped")
    assert [t["stage"] for t in told] == [0, 1, 2, 3]
    assert [t["norm"] for t in told] == pytest.approx([0.5] * 4, rel=1e-3)
