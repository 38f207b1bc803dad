"""The running mean of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightMean:
    """Exponential moving average of named tensors, kept in float32.

    Attributes:
        mean: by name.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Start from some weights.

        Args:
            weights: by name.
            decay: share of the old mean kept at each update; 0 follows the weights.
        """
        self.mean = {name: value.detach().clone().float() for name, value in weights.items()}
        self._decay = decay

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Move towards the weights; in the first steps faster, so that the random start is soon forgotten."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in weights.items():
            self.mean[name].lerp_(value.float(), 1 - decay)

    def load(self, mean: Mapping[str, Tensor]) -> None:
        """Go on from a saved mean."""
        for name, value in mean.items():
            self.mean[name].copy_(value)
