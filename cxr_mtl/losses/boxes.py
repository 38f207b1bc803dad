"""The box loss, on MONAI's RetinaNetDetector.  R films looked at, D findings, N anchors, K boxes.

MONAI brings the matcher (ATSS), the sampler of hard negatives, the box coder and both losses. Four things are ours:
a finding that may be present unboxed is not background; the regression loss stays attached to the graph where a rank
has no matched anchor (MONAI returns a constant, which stalls ZeRO); each film has a loss, and a seed for its sampled
anchors, of its own, so that it costs the same whichever rank it is on; and boxes are xyxy, which MONAI takes as axis
order xy as long as anchors and boxes agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        self.places = [len(level) // num_anchors for level in anchors]
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
        seeds: Sequence[int],
    ) -> Tensor:
        """Sum of the losses of the films given; each film's is the mean over its anchors.

        Args:
            logits: (R, N, D).
            deltas: (R, N, 4).
            boxes: R tensors (K, 4) xyxy in the input frame; (0, 4) says that the film was looked at and has none.
            findings: R tensors (K,) index into D.
            absent_known: (R, D) True where an unboxed region is known not to show the finding, because the finding is
                boxed or known absent. Elsewhere unboxed regions give no loss for that finding.
            seeds: R numbers that the anchors sampled of a film follow from.

        Returns:
            () a differentiable 0 for no film.
        """
        logits, deltas = logits.float(), deltas.float()
        total = (logits.sum() + deltas.sum()) * 0
        targets = [{"boxes": b, "labels": f} for b, f in zip(boxes, findings, strict=True)]
        if not targets:
            return total
        matched = self._detector.compute_anchor_matched_idxs([self.anchors] * len(targets), targets, self.places)
        for film, (target, match, seed) in enumerate(zip(targets, matched, seeds, strict=True)):
            with _seeded(seed, logits.device):
                sampled, truth = self._detector.get_cls_train_sample_per_image(logits[film], target, match)
            # MONAI's own, less the findings that nobody vouches for.
            known = (absent_known[film].expand_as(truth) | (truth > 0)).float()
            loss = F.binary_cross_entropy_with_logits(sampled, truth, reduction="none")
            total = total + (loss * known).sum() / known.sum().clamp(min=1)
            if (match >= 0).any():
                total = total + self._detector.compute_box_loss(
                    deltas[film : film + 1], [target], [self.anchors], [match]
                )
        return total


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's random numbers from a seed, and from where they were afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
