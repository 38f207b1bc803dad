"""A continuation is of the same run, or it is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cxr_mtl.config import RunConfig, load_config
from cxr_mtl.engine.checkpoint import PART, publish
from cxr_mtl.engine.progress import CHECKPOINTS, MAY_DIFFER, PROGRESS_FILE, Progress, find_checkpoint, save_progress
from cxr_mtl.errors import CheckpointError
from cxr_mtl.train.loop import may_differ

HERE = Progress("train", "split", 2)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    config = load_config("quickstart", [f"output={tmp_path}"])
    part = config.folder / CHECKPOINTS / ("epoch0002" + PART)
    part.mkdir(parents=True)
    save_progress(replace(HERE, epochs=2, batches=3, best=0.8), config, part)
    publish(part, steps=20, keep=1)
    return config


def changed(config: RunConfig, *settings: str) -> RunConfig:
    return load_config("quickstart", [f"output={config.output}", *settings])


def test_same_run_goes_on(config: RunConfig) -> None:
    folder, progress = find_checkpoint(HERE, config, MAY_DIFFER)
    assert (folder.name, progress.epochs, progress.best, progress.batches) == ("epoch0002", 2, 0.8, 3)


@pytest.mark.parametrize(
    "setting",
    [
        "train.epochs=50",
        "train.lr=1e-5",
        "train.precision=fp32",
        "train.checkpoint_steps=9",
        "data.manifest=moved.parquet",
    ],
)
def test_what_may_differ(config: RunConfig, setting: str) -> None:
    assert find_checkpoint(HERE, changed(config, setting), MAY_DIFFER)[1].epochs == 2


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("seed=1", "seed=0, this run has 1"),
        ("train.batch_size=8", "train.batch_size=16, this run has 8"),
        ("model.image_size=160", "model.image_size=128"),
        ("loss.boxes=0", "loss.boxes=1.0"),
        ("model.encoder_args={depths: [1]}", r"model\.encoder_args\.depths=\[2, 2, 4, 2\], this run has \[1\]"),
        ("train.sampling.rare=0.5", "train.sampling.rare=0.0, this run has 0.5"),
    ],
)
def test_what_must_not(config: RunConfig, setting: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        find_checkpoint(HERE, changed(config, setting), MAY_DIFFER)


@pytest.mark.parametrize(
    "text", [None, "{", '{"epochs": 1, "config": {}}', '{"verb": "train", "config": {}, "old": 1}']
)
def test_checkpoints_of_another_version(tmp_path: Path, text: str | None) -> None:
    config = load_config("quickstart", [f"output={tmp_path}"])
    part = config.folder / CHECKPOINTS / ("epoch0001" + PART)
    part.mkdir(parents=True)
    if text:
        (part / PROGRESS_FILE).write_text(text)
    publish(part, steps=5, keep=1)
    with pytest.raises(CheckpointError, match="another version of cxr-mtl"):
        find_checkpoint(HERE, config, MAY_DIFFER)


def test_epochs_may_not_change_under_a_share_of_them(tmp_path: Path) -> None:
    settings = [f"output={tmp_path}", "loss.conditional=0.5"]
    part = load_config("quickstart", settings).folder / CHECKPOINTS / ("epoch0001" + PART)
    part.mkdir(parents=True)
    save_progress(replace(HERE, epochs=1), load_config("quickstart", settings), part)
    publish(part, steps=5, keep=1)
    longer = load_config("quickstart", [*settings, "train.epochs=30"])
    with pytest.raises(CheckpointError, match=r"train\.epochs=20, this run has 30"):
        find_checkpoint(HERE, longer, may_differ(longer))


def test_a_section_that_the_verb_does_not_read(config: RunConfig) -> None:
    other = changed(config, "pretrain.prototypes=32")
    assert find_checkpoint(HERE, other, may_differ(other))[1].epochs == 2


def test_other_verb_split_and_ranks(config: RunConfig) -> None:
    with pytest.raises(CheckpointError, match="was written by `cxr-mtl train`"):
        find_checkpoint(replace(HERE, verb="pretrain"), config, MAY_DIFFER)
    with pytest.raises(CheckpointError, match="another split"):
        find_checkpoint(replace(HERE, split="other"), config, MAY_DIFFER)
    with pytest.raises(CheckpointError, match="by 2 ranks, here are 1"):
        find_checkpoint(replace(HERE, ranks=1), config, MAY_DIFFER)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Start without --resume"):
        find_checkpoint(HERE, load_config("quickstart", [f"output={tmp_path}"]), MAY_DIFFER)
