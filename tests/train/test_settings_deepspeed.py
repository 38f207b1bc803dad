"""DeepSpeed's settings follow from the run file; what would have two homes is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxr_mtl.config import TrainConfig
from cxr_mtl.engine.settings import deepspeed_settings
from cxr_mtl.errors import ConfigError
from cxr_mtl.paths import configs_dir


def test_batch_that_ranks_cannot_share() -> None:
    with pytest.raises(ConfigError, match="15 films cannot be shared by 2 ranks x 1"):
        deepspeed_settings(TrainConfig(batch_size=15), world=2)


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3_offload", 3)])
def test_our_own_files_are_taken(name: str, stage: int) -> None:
    file = configs_dir() / "deepspeed" / f"{name}.json"
    settings = deepspeed_settings(TrainConfig(deepspeed=file, zero_stage=stage, batch_size=8), world=2)
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["zero_optimization"]["overlap_comm"] is True
    assert settings["train_micro_batch_size_per_gpu"] == 4


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ({"zero_optimization": {"stage": 3}}, "Set train.zero_stage"),
        ({"train_batch_size": 4}, "'train_batch_size' is not taken from here"),
        ({"zero_optimisation": {}}, "'zero_optimisation' is not taken from here"),
    ],
)
def test_what_stands_in_the_run_file_is_not_taken_from_another(tmp_path: Path, override: object, says: str) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(override))
    with pytest.raises(ConfigError, match=says):
        deepspeed_settings(TrainConfig(deepspeed=tmp_path / "ds.json"), world=2)
