"""The findings head.  B batch, C findings, F channels."""

from __future__ import annotations

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn


class ClassifyHead(nn.Module):
    """Norm, mean and maximum over the map, one logit a finding; each finding for itself.

    The mean alone loses what is small: a nodule fills one of some twenty places.
    """

    def __init__(self, channels: int, num_findings: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * channels, num_findings)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, H, W) last map of the encoder to (B, C) logits."""
        normed = self.norm(features)
        pooled = torch.cat([normed.mean((2, 3)), normed.amax((2, 3))], 1)  # (B, 2F)
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits
