"""The running mean of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightMean:
    """Exponential moving average of named tensors, kept in float32; whole numbers, such as counts, are copied.

    Attributes:
        mean: by name.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Start from some weights.

        Args:
            weights: by name.
            decay: share of the old mean kept at each update; 0 follows the weights.
        """
        self.mean = {name: _start(value) for name, value in weights.items()}
        self._decay = decay
        self._averaged = [name for name, value in self.mean.items() if value.is_floating_point()]
        self._copied = [name for name, value in self.mean.items() if not value.is_floating_point()]
        self._means = [self.mean[name] for name in self._averaged]

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Move towards the weights; in the first steps faster, so that the random start is soon forgotten."""
        decay = min(self._decay, (1 + step) / (10 + step))
        # All at once: a network has hundreds of small tensors, and on a GPU each call costs more than its arithmetic.
        torch._foreach_lerp_(self._means, [weights[name].detach().float() for name in self._averaged], 1 - decay)
        for name in self._copied:
            self.mean[name].copy_(weights[name])

    def load(self, mean: Mapping[str, Tensor]) -> None:
        """Go on from a saved mean."""
        for name, value in mean.items():
            self.mean[name].copy_(value)


def _start(value: Tensor) -> Tensor:
    value = value.detach().clone(memory_format=torch.contiguous_format)
    return value.float() if value.is_floating_point() else value
