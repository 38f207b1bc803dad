"""The findings head.  B batch, C findings, F and G channels of the stride 16 and stride 32 maps, H W of the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from cxr_mtl.config.model import Pooling

LEVELS = 2  # of the encoder's maps, counted from the last


class ClassifyHead(nn.Module):
    """One logit a finding, each for itself, from the normed last two maps.

    ``plain``: from their mean and maximum. The mean of the last map alone loses what is small, a nodule in one of some
    twenty places; and where its places look is no longer where they are, so heat maps of it miss.

    ``attention``: every place has a logit of every finding, and a finding's logit is their mean, each place weighing as
    much as it is probable to show that finding (Ye et al., PCAM, 2020). What a finding looks at is then a map of where
    it is, learned without a box.
    """

    def __init__(
        self, channels: Sequence[int], num_findings: int, dropout: float = 0.0, pooling: Pooling = "plain"
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.norms = nn.ModuleList(LayerNorm2d(c) for c in channels)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(sum(channels) * (2 if pooling == "plain" else 1), num_findings)
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
        if self.pooling == "plain":
            pooled = torch.cat([pool for m in normed for pool in (m.mean((2, 3)), m.amax((2, 3)))], 1)  # (B, 2F + 2G)
            logits: Tensor = self.linear(self.dropout(pooled))
            return logits
        places = self.places(normed).flatten(2).float()  # (B, C, H*W), summed over in more than half precision
        weight = F.logsigmoid(places).softmax(2)  # p / sum of p
        return (weight * places).sum(2)

    def places(self, normed: Sequence[Tensor]) -> Tensor:
        """(B, C, H, W) logit of every finding at every place of the finer map; of pooling ``attention``."""
        size = normed[0].shape[2:]
        joined = torch.cat([normed[0], *(F.interpolate(m, size, mode="bilinear") for m in normed[1:])], 1)
        places: Tensor = self.linear(self.dropout(joined.permute(0, 2, 3, 1)))
        return places.permute(0, 3, 1, 2)
