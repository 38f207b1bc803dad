"""How a run learns: losses, augmentation, which films are drawn, and the optimizer's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cxr_mtl.config.section import NotNegative, Positive, Section, Share


class LossConfig(Section):
    findings: NotNegative = 1.0
    hierarchy: NotNegative = 1.0
    boxes: NotNegative = 1.0
    """Weights of the three heads' losses; 0 leaves a head untrained."""
    balance: Literal["fixed", "uncertainty"] = "fixed"
    """Whether those weights stay, or are multiplied by what the run learns of each head's noise (Kendall et al.,
    2018)."""
    kind: Literal["bce", "asymmetric"] = "bce"
    """Of findings and tree: binary cross-entropy, or the asymmetric loss, which forgets easy absences (Ridnik et al.,
    2021)."""
    positives: Annotated[float, Field(ge=1)] = 1.0
    """Largest weight of a present finding: the rarer, the heavier, absent over present films, but no more than this.
    Scores are no longer near probabilities then; calibration on validation films makes up for it."""
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Labels become this and 1 less this instead of 0 and 1."""
    conditional: Share = 0.0
    """Share of the epochs, from the first, in which the tree learns each finding only on films with its parents; then
    on all films (Chen et al., 2020). For the tree `conditional` only."""


class AugmentConfig(Section):
    rotate: Annotated[float, Field(ge=0, le=45)] = 10.0
    """Largest rotation either way, degrees."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Largest change of size, as a share."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Largest shift, as a share of the side."""
    contrast: NotNegative = 0.25
    brightness: NotNegative = 0.1
    gamma: NotNegative = 0.2
    """Largest change of contrast, brightness and gamma, either way: machines and their settings differ in all three."""
    noise: NotNegative = 0.02
    """Standard deviation of added noise, in units of the 0 to 1 range."""
    mirror: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of films that are mirrored. Leave it at 0: a mirrored film has its heart on the wrong side."""


class SamplingConfig(Section):
    """Which films an epoch draws. An epoch always has as many films as the training split."""

    datasets: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of a dataset among the films drawn goes with its size to this power: 1 as they come, 0 each alike."""
    patients: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The same for the patients of a dataset: at 0 one with a hundred films counts no more than one with a single."""
    rare: Share = 0.0
    """Films with a finding rarer than this are drawn more often: by the square root of how many times rarer (Gupta et
    al., LVIS, 2019)."""


class TrainConfig(Section):
    epochs: Annotated[int, Field(ge=1)] = 30
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Films per optimizer step, over all ranks and accumulation steps."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Forward passes per optimizer step."""
    sampling: SamplingConfig = SamplingConfig()
    lr: Positive = 1e-3
    """Peak learning rate."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer of the encoder learns at so much of the rate of the one above it; for encoders that have learned
    already, about 0.75."""
    weight_decay: NotNegative = 0.05
    warmup_epochs: NotNegative = 2.0
    clip: Positive = 1.0
    """Largest gradient norm."""
    ema: Share = 0.998
    """Decay of the running mean of the weights that is validated and kept; 0 keeps the weights themselves."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    channels_last: bool = False
    """Keep pixels of a place together in memory: quicker for convolutions on GPUs, and on some CPUs."""
    checkpoint_activations: bool = False
    """Compute the encoder's inner results again on the way back instead of keeping them: less memory, a third
    slower."""
    compile: bool = False
    """Compile the encoder with torch.compile: minutes at the start, quicker steps after; pays on GPUs and long runs."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    deepspeed: Path | None = None
    """JSON file of further DeepSpeed settings, merged over the derived ones."""
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    """Write a checkpoint after so many optimizer steps, too; None only after each epoch."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
