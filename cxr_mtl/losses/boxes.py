"""The box loss, on MONAI's RetinaNetDetector.  R films looked at, D findings, N anchors, K boxes.

MONAI brings the matcher (ATSS), the sampler of hard negatives, the box coder and both losses. Three things are ours:
a finding that may be present unboxed is not background; the regression loss stays attached to the graph where a rank
has no matched anchor (MONAI returns a constant, which stalls ZeRO); and boxes are xyxy, which MONAI takes as axis order
xy as long as anchors and boxes agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.utils.anchor_utils import AnchorGenerator
from torch import Tensor, nn

BATCH_PER_IMAGE = 64  # anchors sampled of a film, a quarter of them matched ones at most
POSITIVE_SHARE = 0.25
ATSS_CANDIDATES = 4  # nearest anchors a level that a box may match, for each anchor shape


class _Shape(nn.Module):
    """Tells MONAI's detector the sizes it asks of a network; the network itself is ours and never called here."""

    spatial_dims = 2
    size_divisible = 32
    cls_key = "classification"
    box_reg_key = "box_regression"

    def __init__(self, num_classes: int, num_anchors: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_anchors = num_anchors


class BoxLoss(nn.Module):
    """Classification and regression loss of the films whose boxes somebody drew."""

    def __init__(self, num_findings: int, anchors: Sequence[Tensor], num_anchors: int) -> None:
        super().__init__()
        self.per_level = [len(level) for level in anchors]
        self.num_anchors = num_anchors
        self.anchors: Tensor
        self.register_buffer("anchors", torch.cat(list(anchors)), persistent=False)
        # MONAI reads only the number of anchors a place from its generator; the anchors themselves are given below.
        generator = AnchorGenerator(sizes=((8,) * num_anchors,), aspect_ratios=((1.0,),))
        detector: Any = RetinaNetDetector(_Shape(num_findings, num_anchors), generator)
        detector.set_atss_matcher(num_candidates=ATSS_CANDIDATES, center_in_gt=False)
        detector.set_hard_negative_sampler(
            batch_size_per_image=BATCH_PER_IMAGE, positive_fraction=POSITIVE_SHARE, min_neg=16, pool_size=10
        )
        self._detector = detector

    def forward(
        self,
        logits: Tensor,
        deltas: Tensor,
        boxes: Sequence[Tensor],
        findings: Sequence[Tensor],
        absent_known: Tensor,
    ) -> Tensor:
        """Loss of the films given.

        Args:
            logits: (R, N, D).
            deltas: (R, N, 4).
            boxes: R tensors (K, 4) xyxy in the input frame; (0, 4) says that the film was looked at and has none.
            findings: R tensors (K,) index into D.
            absent_known: (R, D) True where an unboxed region is known not to show the finding, because the finding is
                boxed or known absent. Elsewhere unboxed regions give no loss for that finding.

        Returns:
            () a differentiable 0 for no film.
        """
        attached = (logits.float().sum() + deltas.float().sum()) * 0
        targets = [{"boxes": b, "labels": f} for b, f in zip(boxes, findings, strict=True)]
        if not targets:
            return attached
        places = [n // self.num_anchors for n in self.per_level]
        matched = self._detector.compute_anchor_matched_idxs([self.anchors] * len(targets), targets, places)
        total = attached
        num_matched = sum(int((m >= 0).sum()) for m in matched)
        if num_matched:
            regression = self._detector.compute_box_loss(
                deltas.float(), targets, [self.anchors] * len(targets), matched
            )
            total = total + regression
        return total + self._classification(logits.float(), targets, matched, absent_known)

    def _classification(
        self, logits: Tensor, targets: list[dict[str, Tensor]], matched: list[Tensor], absent_known: Tensor
    ) -> Tensor:
        """BCE over sampled anchors and known findings: MONAI's own, less the findings nobody vouches for."""
        losses, known = [], []
        for film, target, match, vouched in zip(logits, targets, matched, absent_known, strict=True):
            sampled, truth = self._detector.get_cls_train_sample_per_image(film, target, match)
            losses.append(F.binary_cross_entropy_with_logits(sampled, truth, reduction="none"))
            known.append(vouched.expand_as(truth) | (truth > 0))
        weights = torch.cat(known).float()
        return (torch.cat(losses) * weights).sum() / weights.sum().clamp(min=1)
