"""The network of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from cxr_mtl.config.section import Section, Share

Pooling = Literal["plain", "attention"]
Tree = Literal["conditional", "max", "flat"]


class ModelConfig(Section):
    encoder: str = "convnext_atto"
    """Any timm model that gives a feature pyramid: convnext*, swin*, and most CNNs."""
    encoder_args: dict[str, Any] = Field(default_factory=dict)
    """Extra arguments of timm.create_model, such as depths and widths."""
    weights: Path | None = None
    """Local weights to start from: a safetensors file of the encoder, of timm's or from `cxr-mtl pretrain`, or another
    run's bundle, whose heads are taken too where they fit. What was loaded and what was not is reported."""
    pretrained: bool = False
    """Fetch timm's weights by name; the only setting that uses the network."""
    image_size: Annotated[int, Field(ge=64, le=4096)] = 224
    """Side of the square input, pixels."""
    dropout: Share = 0.0
    drop_path: Share = 0.1
    pooling: Pooling = "plain"
    """How the findings head looks at the maps: `plain` takes their mean and maximum; `attention` lets each finding
    weigh the places itself, and gives findings without drawn boxes a box from where it looked."""
    tree: Tree = "conditional"
    """How the tree's probabilities come about: `conditional`, a finding given its parents, multiplied along the tree;
    `max`, a parent is as probable as its most probable child; `flat`, each for itself, which may contradict itself and
    is there to compare with."""
    views: Annotated[int, Field(ge=1, le=5)] = 1
    """Looks at each film when answering, each at another size, whose logits are averaged. Never a mirrored one."""
    fpn_channels: Annotated[int, Field(ge=8)] = 64
    """Width of the box head; it sets most of the box head's cost."""
    box_convs: Annotated[int, Field(ge=1, le=8)] = 2
    """Convolutions in each tower of the box head."""

    @field_validator("image_size")
    @classmethod
    def _whole_strides(cls, value: int) -> int:
        if value % 32:
            raise ValueError(f"must be a multiple of 32 (got {value})")
        return value

    @field_validator("fpn_channels")
    @classmethod
    def _whole_groups(cls, value: int) -> int:
        if value % 8:
            raise ValueError(f"must be a multiple of 8 (got {value})")
        return value
