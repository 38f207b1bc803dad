"""Power cuts: launcher and ranks killed at a random step, resumed, killed again; the end is that of a quiet run."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import DEEPSPEED, TORCHRUN, draw_films, kill_before, log, losses, run_file, train
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_films(tmp_path_factory.mktemp("resume"))


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """All numbers of the last checkpoint: mean of the weights, weights of the heads' losses, weights, optimizer."""
    checkpoint = folder / "runs" / name / "checkpoints" / "epoch0003"
    found = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        found |= load_file(file)

    def walk(tree: object, at: str) -> None:
        if isinstance(tree, torch.Tensor):
            found[at] = tree
        elif isinstance(tree, dict):
            for key, value in tree.items():
                walk(value, f"{at}/{key}")
        elif isinstance(tree, list | tuple):
            for key, value in enumerate(tree):
                walk(value, f"{at}/{key}")

    for file in sorted(checkpoint.glob("*.pt")):
        walk(torch.load(file, weights_only=False), file.name)  # noqa: TID251 (DeepSpeed's own, written a moment ago)
    return found


@pytest.mark.parametrize(
    ("launcher", "how"),
    [
        (DEEPSPEED, {"zero_stage": 0}),
        (
            TORCHRUN,
            {
                "zero_stage": 1,
                "accumulate": 2,
                "sampling": {"patients": 0.5, "rare": 0.3},
                "loss": {"balance": "uncertainty"},
            },
        ),
        (TORCHRUN, {"zero_stage": 2, "layer_decay": 0.75}),
        (TORCHRUN, {"zero_stage": 3, "ema": 0.0}),
    ],
    ids=["zero0", "zero1-balance-sampling-accumulate", "zero2-layers", "zero3"],
)
def test_killed_at_any_step_ends_where_the_quiet_run_ended(
    folder: Path, launcher: tuple[str, ...], how: dict[str, Any]
) -> None:
    quiet, killed = (f"{name}{how['zero_stage']}" for name in ("quiet", "killed"))
    passes = how.get("accumulate", 1)
    train("-c", str(run_file(folder, quiet, **how)), launcher=launcher)
    seed = int(os.environ.get("SEED", random.randrange(1000)))
    draw = random.Random(seed)
    first, second = draw.choice([7, 8, 9, 10]), draw.choice([12, 13, 14, 15])
    sys.stdout.write(f"SEED={seed}: killed before the steps {first} and {second} of 15, five an epoch\n")
    file = str(run_file(folder, killed, **how))
    kill_before(first, folder, "-c", file, launcher=launcher)
    steps = ("-s", "train.checkpoint_steps=1")
    kill_before(second, folder, "-c", file, "--resume", *steps, launcher=launcher)
    newest = folder / "runs" / killed / "checkpoints" / "latest"
    assert newest.read_text() == f"epoch0003step{second - 1:06d}"
    train("-c", file, "--resume", launcher=launcher)
    assert [e["epoch"] for e in log(folder, killed) if e["event"] == "epoch"] == [1, 2, 3]
    assert losses(folder, killed) == losses(folder, quiet)
    assert [step for step, _ in losses(folder, killed)] == [step for step in range(1, 16) for _ in range(passes)]
    epochs = [[e for e in log(folder, name) if e["event"] == "epoch"] for name in (quiet, killed)]
    assert epochs[0] == epochs[1]
    theirs, mine = tensors(folder, quiet), tensors(folder, killed)
    assert len(theirs) > 100
    assert theirs.keys() == mine.keys()
    assert [name for name in theirs if not torch.equal(theirs[name], mine[name])] == []
