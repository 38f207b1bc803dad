"""The learning rate through a run."""

from __future__ import annotations

import math
from collections.abc import Callable

from cxr_mtl.config import TrainConfig


def warm_cosine(config: TrainConfig, steps_an_epoch: int) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine to a hundredth.

    Args:
        config: epochs, of which some to warm up.
        steps_an_epoch: optimizer steps.

    Returns:
        share of the peak rate, above 0 and at most 1, by optimizer step, counted from 0.
    """
    warm = config.warmup_epochs * steps_an_epoch
    rest = max(1.0, config.epochs * steps_an_epoch - warm)

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / rest)))

    return share
