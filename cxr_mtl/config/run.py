"""The whole of a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from cxr_mtl.config.data import DataConfig
from cxr_mtl.config.learn import AugmentConfig, LossConfig, TrainConfig
from cxr_mtl.config.model import ModelConfig
from cxr_mtl.config.pretrain import PretrainConfig
from cxr_mtl.config.section import Section


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the run folder and, later, the model."""
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path = Path("runs")
    """Folder that gets a folder of the run's name."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    pretrain: PretrainConfig | None = None
    """Read by `cxr-mtl pretrain` only; None is all its defaults."""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(f"train.batch_size {self.train.batch_size} is not divisible by train.accumulate")
        if self.train.zero_stage == 3 and self.train.ema:
            raise ValueError("train.ema needs whole weights at each step; ZeRO stage 3 has none, so set it to 0")
        if self.train.precision == "fp16" and self.train.zero_stage:
            # DeepSpeed 0.19 clips what is still scaled there, and never lowers a scale that overflows.
            raise ValueError("train.precision=fp16 needs train.zero_stage=0; bf16 does at every stage")
        if not (self.loss.findings or self.loss.hierarchy or self.loss.boxes):
            raise ValueError("loss: all three weights are 0, so nothing would be learned")
        if self.loss.conditional and self.model.tree != "conditional":
            raise ValueError(f"loss.conditional is for model.tree=conditional (got {self.model.tree})")
        large = self.pretrain.crops.large_size if self.pretrain else None
        if large and 2 * large < self.model.image_size:
            raise ValueError(
                f"pretrain.crops.large_size: films of {self.model.image_size} px lose what is small in crops of less "
                f"than half of that; lower model.image_size (got {large})"
            )
        return self

    @property
    def folder(self) -> Path:
        return self.output / self.name
