"""The part of a run file that `cxr-mtl pretrain` reads: learning from films without labels (DINO, Caron et al., 2021).

Films, encoder, batch, learning rate and length stand in ``data``, ``model`` and ``train``, turning and exposure in
``augment``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from cxr_mtl.config.section import NotNegative, Positive, Range, Section, Share

Momentum = Annotated[float, Field(ge=0, le=1)]


class CropsConfig(Section):
    """What the networks see of a film. The teacher sees the large crops, the student all."""

    large: Annotated[int, Field(ge=2, le=8)] = 2
    small: Annotated[int, Field(ge=0, le=16)] = 4
    """How many of each kind a film gives."""
    large_size: Annotated[int, Field(ge=32, le=4096)] | None = None
    """Side in pixels; None is the film's own, ``model.image_size``."""
    small_size: Annotated[int, Field(ge=32, le=4096)] | None = None
    """None is half a large one's."""
    large_area: Range = (0.4, 1.0)
    small_area: Range = (0.1, 0.4)
    """Least and largest share of the film's area that a crop shows."""
    stretch: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Largest change of a crop's proportions, as a share."""
    blur: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of crops that are blurred."""

    @field_validator("large_area", "small_area")
    @classmethod
    def _something(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"must rise from more than 0 (got {value[0]:g}, {value[1]:g})")
        return value


class PretrainConfig(Section):
    crops: CropsConfig = CropsConfig()
    prototypes: Annotated[int, Field(ge=2)] = 1024
    """Outputs of the projection head: the kinds of crop that student and teacher agree upon."""
    hidden: Annotated[int, Field(ge=1)] = 1024
    bottleneck: Annotated[int, Field(ge=1)] = 256
    """Widths inside the projection head."""
    student_temperature: Positive = 0.1
    teacher_temperature: Positive = 0.04
    """The lower, the surer. The teacher must be surer than the student."""
    center_momentum: Share = 0.9
    """Share of the running mean of the teacher's outputs that a step keeps; it is taken off, so that no output wins."""
    teacher_momentum: Momentum = 0.99
    """Share of the teacher that a step keeps; goes up to 1 along half a cosine."""
    freeze_head_epochs: NotNegative = 1.0
    """Epochs, from the first, in which the head's last layer does not learn."""
    spread: NotNegative = 0.0
    """Weight of a loss that keeps the student's features of different films apart (KoLeo; Sablayrolles et al.,
    2019)."""
    probe: Path | None = None
    """Manifest with labels for the nearest-neighbour probe; None probes `data.manifest` where it has labels."""
    probe_every: Annotated[int, Field(ge=0)] = 5
    """Epochs from one probe to the next; 0 probes only before the first epoch and after the last."""
    neighbours: Annotated[int, Field(ge=1)] = 50
    """Of the probe."""
    collapse_after: NotNegative = 2.0
    """Epochs after which the run is stopped where the teacher no longer tells films apart."""
    min_information: NotNegative = 0.05
    """What the teacher's output must say of a crop, as a share of the most that it could say."""
    min_rank: NotNegative = 2.0
    """Least effective rank of the teacher's features: in how many directions they differ."""

    @model_validator(mode="after")
    def _teacher_is_surer(self) -> PretrainConfig:
        if self.teacher_temperature >= self.student_temperature:
            raise ValueError(
                f"teacher_temperature must be below student_temperature, {self.student_temperature:g}: the teacher is "
                f"the surer (got {self.teacher_temperature:g})"
            )
        return self
