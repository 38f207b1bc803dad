"""The findings head.  B batch, C findings, F and G channels of the stride 16 and the stride 32 map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

LEVELS = 2  # of the encoder's maps, counted from the last


class ClassifyHead(nn.Module):
    """Norm, mean and maximum of the last two maps, one logit a finding; each finding for itself.

    The mean of the last map alone loses what is small, a nodule in one of some twenty places; and where its places look
    is no longer where they are, so heat maps of it miss.
    """

    def __init__(self, channels: Sequence[int], num_findings: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm2d(c) for c in channels)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * sum(channels), num_findings)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, F, H, W) and (B, G, H/2, W/2) maps of the encoder to (B, C) logits."""
        return self.judge(self.normed(maps))

    def normed(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps as the head sees them; heat maps are made of these."""
        return [norm(m) for norm, m in zip(self.norms, maps, strict=True)]

    def judge(self, normed: Sequence[Tensor]) -> Tensor:
        """Logits from normed maps."""
        pooled = torch.cat([pool for m in normed for pool in (m.mean((2, 3)), m.amax((2, 3)))], 1)  # (B, 2F + 2G)
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits
