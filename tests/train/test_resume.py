"""Power cuts: launcher and ranks killed at a random step, resumed, killed again; the end is that of a quiet run."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import (
    DEEPSPEED,
    ENVIRONMENT,
    PATIENCE,
    TORCHRUN,
    draw_films,
    kill_all,
    log,
    losses,
    run_file,
    start,
    train,
)
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
DISTURBED = str(Path(__file__).with_name("disturbed.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_films(tmp_path_factory.mktemp("resume"))


def kill_before(step: int, folder: Path, *args: str, launcher: tuple[str, ...]) -> None:
    mark = folder / f"paused{step}"
    mark.unlink(missing_ok=True)
    environment = ENVIRONMENT | {"PAUSE_AT": str(step), "PAUSE_MARK": str(mark)}
    process = start(*args, launcher=(*launcher[: launcher.index("--module")], DISTURBED), environment=environment)
    deadline = time.monotonic() + PATIENCE
    while not mark.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill_all(process)


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """All numbers of the last checkpoint: mean of the weights, weights, optimizer."""
    checkpoint = folder / "runs" / name / "checkpoints" / "epoch0003"
    found = dict(load_file(checkpoint / "weight_mean.safetensors"))

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


@pytest.mark.parametrize(("stage", "launcher", "layer_decay"), [(0, DEEPSPEED, 1.0), (2, TORCHRUN, 0.75)])
def test_killed_at_any_step_ends_where_the_quiet_run_ended(
    folder: Path, stage: int, launcher: tuple[str, ...], layer_decay: float
) -> None:
    quiet, killed = f"quiet{stage}", f"killed{stage}"
    how = {"zero_stage": stage, "layer_decay": layer_decay}
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
    assert [step for step, _ in losses(folder, killed)] == list(range(1, 16))
    epochs = [[e for e in log(folder, name) if e["event"] == "epoch"] for name in (quiet, killed)]
    assert epochs[0] == epochs[1]
    theirs, mine = tensors(folder, quiet), tensors(folder, killed)
    assert len(theirs) > 100
    assert theirs.keys() == mine.keys()
    assert [name for name in theirs if not torch.equal(theirs[name], mine[name])] == []
