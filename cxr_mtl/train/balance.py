"""How much each head's loss counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

RATE = 0.01  # of the gradient step that the log variances take; they move by at most about this at each step


class Balance(nn.Module):
    """Uncertainty weighting (Kendall, Gal and Cipolla, Multi-task learning using uncertainty, CVPR 2018).

    A head's loss L counts exp(-s) L + s, where s, the log of its noise, is learned on the same sum: by its gradient
    1 - exp(-s) L, which needs no graph. So s is no weight of the network, and is the same on all ranks.

    Attributes:
        log_variance: (T,) s of each head.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.log_variance: Tensor
        self.register_buffer("log_variance", torch.zeros(num_heads))

    def weights(self) -> Tensor:
        """(T,) what each loss is multiplied by."""
        return (-self.log_variance).exp()

    @torch.no_grad()
    def learn(self, losses: Tensor, learned: Sequence[bool]) -> None:
        """Take a step.

        Args:
            losses: (T,) of the step, the mean over ranks.
            learned: T; a head that is not learned, or had nothing to learn from, keeps its weight.
        """
        gradient = 1 - self.weights() * losses
        moves = torch.tensor(learned, device=losses.device) & (losses > 0)
        self.log_variance -= RATE * gradient.clamp(-1, 1) * moves
