"""The box head: RetinaNet's towers over a feature pyramid, its anchors, and how logits become boxes.

B batch, D findings that can have a box, A anchors at a place, N anchors of all levels, K boxes; boxes xyxy in the input
frame, pixels. Training hands logits and anchors to losses/boxes.py, which learns as MONAI's RetinaNetDetector does.
Answering needs none of MONAI, whose import takes seconds: ``decode`` here is held to MONAI's own box coder and
``make_anchors`` to its anchor generator by tests.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, batched_nms, clip_boxes_to_image

from cxr_mtl.model.encoder import STRIDES

# Two sizes and three shapes a place, fitted to chest findings: a nodule's box is some 7 % of the film's side wide, a
# heart's 46 %, an effusion's up to 2.7 times as high as wide (NIH; `python benchmarks/anchors.py` prints the fit).
ANCHOR_RATIOS = (0.5, 1.0, 2.0)  # height over width
NUM_ANCHORS = 2 * len(ANCHOR_RATIOS)
SMALL_INPUT = 192  # below, a nodule is less than the finest level's stride, and anchors begin smaller
# exp() of a larger width or height delta would make a box no film can hold; the bound is RetinaNet's.
MAX_LOG_RATIO = math.log(1000.0 / 16)
PRIOR = 0.01  # probability of a box at a place before training, as in Lin et al., Focal loss, 2017


def anchor_scales(side: int) -> tuple[float, float]:
    """Sides of the square anchors of a level, in its strides, for a square input of this side."""
    smallest = 2.0 if side < SMALL_INPUT else 3.0
    return smallest, smallest * math.sqrt(2.0)


def strides(side: int) -> tuple[int, ...]:
    """Pixels from place to place of each level, for a square input of this side.

    The coarsest level's anchors reach a heart's box, some half of the film's side.
    """
    return STRIDES + (64,) * (side >= 320) + (128,) * (side >= 640)


class LocalizeHead(nn.Module):
    """FPN and two towers: for each anchor D logits and four deltas."""

    def __init__(self, channels: Sequence[int], num_findings: int, width: int, num_convs: int, num_levels: int) -> None:
        """Build the head.

        Args:
            channels: of the encoder's three maps.
            num_findings: D.
            width: channels of pyramid and towers.
            num_convs: of each tower.
            num_levels: of the pyramid; those beyond the encoder's take every second place of the one before and have no
                weights of their own, so a head learned at one size fits another (its anchors: ``anchor_scales``).
        """
        super().__init__()
        self.num_levels = num_levels
        self.fpn = FeaturePyramidNetwork(list(channels), width)
        self.logit_tower = _tower(width, num_convs)
        self.delta_tower = _tower(width, num_convs)
        self.logits = nn.Conv2d(width, NUM_ANCHORS * num_findings, 3, padding=1)
        self.deltas = nn.Conv2d(width, NUM_ANCHORS * 4, 3, padding=1)
        for layer in (self.logits, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(self.deltas.bias) if self.deltas.bias is not None else None
        if self.logits.bias is not None:
            nn.init.constant_(self.logits.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Three maps of the encoder to, per level, (B, A*D, H, W) logits and (B, A*4, H, W) deltas."""
        levels = list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())
        while len(levels) < self.num_levels:
            levels.append(levels[-1][:, :, ::2, ::2])
        return (
            [self.logits(self.logit_tower(level)) for level in levels],
            [self.deltas(self.delta_tower(level)) for level in levels],
        )


def _tower(width: int, num_convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def make_anchors(side: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """Anchors of each level for a square input.

    Args:
        side: of the input, a multiple of 32.

    Returns:
        per level (H*W*A, 4) xyxy, place by place in reading order.
    """
    levels = []
    for stride in strides(side):
        ratios = torch.tensor(ANCHOR_RATIOS, device=device).sqrt()
        sizes = torch.tensor(anchor_scales(side), device=device) * stride
        widths = (sizes[None, :] / ratios[:, None]).flatten()
        heights = (sizes[None, :] * ratios[:, None]).flatten()
        cell = (torch.stack([-widths, -heights, widths, heights], 1) / 2).round()  # (A, 4) round the place's centre
        centres = (torch.arange(math.ceil(side / stride), device=device) + 0.5) * stride
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
        levels.append((shifts + cell).reshape(-1, 4))
    return levels


def flatten_levels(maps: Sequence[Tensor], width: int) -> Tensor:
    """Per-level (B, A*width, H, W) to (B, N, width), in the order of ``make_anchors``."""
    flat = []
    for level in maps:
        b, _, h, w = level.shape
        flat.append(level.view(b, -1, width, h, w).permute(0, 3, 4, 1, 2).reshape(b, -1, width))
    return torch.cat(flat, 1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes from deltas: shift by a share of the anchor, stretch by exp (Girshick et al., R-CNN).

    Args:
        deltas: (..., N, 4) dx, dy, dw, dh.
        anchors: (N, 4).
    """
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2
    new_centre = deltas[..., :2] * size + centre
    new_size = deltas[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * size
    return torch.cat([new_centre - new_size / 2, new_centre + new_size / 2], -1)


def select_boxes(
    logits: Tensor, deltas: Tensor, anchors: Tensor, side: int, *, per_finding: int = 5, candidates: int = 100
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The best few boxes of every finding, after non-maximum suppression within the finding.

    There is no score cut: a film's best box of a finding is wanted however low its score, and who shows boxes cuts.

    Args:
        logits: (B, N, D).
        deltas: (B, N, 4).
        anchors: (N, 4).
        side: of the input; boxes are clipped to it.
        per_finding: kept of each finding.
        candidates: looked at of each finding.

    Returns:
        per film boxes (K, 4), scores (K,) 0 to 1 and finding index (K,), best first.
    """
    results = []
    for film_logits, film_deltas in zip(logits.float(), deltas.float(), strict=True):
        scores, places = film_logits.sigmoid().topk(min(candidates, len(anchors)), dim=0)  # both (candidates, D)
        finding = torch.arange(scores.shape[1], device=scores.device).expand_as(scores).flatten()
        places, scores = places.flatten(), scores.flatten()
        boxes = clip_boxes_to_image(decode(film_deltas[places], anchors[places]), (side, side))
        keep = batched_nms(boxes, scores, finding, 0.5)
        # batched_nms returns best first; rank within the finding cuts the tail of each.
        rank = torch.zeros_like(keep)
        for d in range(logits.shape[2]):
            mine = finding[keep] == d
            rank[mine] = torch.arange(int(mine.sum()), device=rank.device)
        keep = keep[rank < per_finding]
        results.append((boxes[keep], scores[keep], finding[keep]))
    return results
