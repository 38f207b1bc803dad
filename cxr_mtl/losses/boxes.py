"""The box loss, as MONAI's RetinaNetDetector has it.  R films looked at, D findings, N anchors, K boxes, S sampled.

MONAI brings overlap, distance and box coder; which anchors count, ``matching`` says for all films at once. Three things
are ours: a finding that may be present unboxed is not background; the regression loss stays attached to the graph where
a rank has no matched anchor (MONAI returns a constant, which stalls ZeRO); and each film has a loss, and a seed for its
sampled anchors, of its own, so that it costs the same whichever rank it is on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.apps.detection.utils.box_coder import BoxCoder
from torch import Tensor, nn

from cxr_mtl.losses.matching import match_anchors, sample_anchors

BETA = 1 / 9  # where the regression loss turns from square to straight; MONAI's and torchvision's


class BoxLoss(nn.Module):
    """Classification and regression loss of the films whose boxes somebody drew."""

    def __init__(self, num_findings: int, anchors: Sequence[Tensor], num_anchors: int) -> None:
        super().__init__()
        self.num_findings, self.num_anchors = num_findings, num_anchors
        self.places = [len(level) // num_anchors for level in anchors]
        self.anchors: Tensor
        self.register_buffer("anchors", torch.cat(list(anchors)), persistent=False)
        self._coder = BoxCoder(weights=(1.0,) * 4)

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
        if not boxes:
            return (logits.float().sum() + deltas.float().sum()) * 0
        matched = match_anchors(boxes, self.anchors, self.places, self.num_anchors)
        film, anchor = sample_anchors(logits.detach().float().amax(2), matched, seeds)
        presence = self._presence(logits[film, anchor].float(), film, matched[film, anchor], findings, absent_known)
        return presence + self._regression(deltas, torch.cat(list(boxes)), matched)

    def _presence(
        self, logits: Tensor, film: Tensor, box: Tensor, findings: Sequence[Tensor], absent_known: Tensor
    ) -> Tensor:
        """Cross-entropy of (S, D) sampled logits, the mean of each film, less the findings that nobody vouches for."""
        # An anchor that shows nothing has box -1, and asks for a finding that no D has.
        of_box = torch.cat([*findings, torch.full_like(film[:1], self.num_findings)])
        truth = F.one_hot(of_box[box], self.num_findings + 1)[:, :-1].float()
        known = (absent_known[film] | (truth > 0)).float()
        loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        total = loss.new_zeros(len(absent_known)).index_add(0, film, known.sum(1))
        return (loss * known / total.clamp(min=1)[film, None]).sum()

    def _regression(self, deltas: Tensor, boxes: Tensor, matched: Tensor) -> Tensor:
        """Smooth L1 of what matched anchors are off by, the mean of each film; (T, 4) boxes of all films."""
        found = matched >= 0
        film, anchor = found.nonzero(as_tuple=True)
        wanted = self._coder.encode_single(boxes[matched[film, anchor]], self.anchors[anchor])
        loss = F.smooth_l1_loss(deltas[film, anchor].float(), wanted, reduction="none", beta=BETA)
        return (loss.mean(1) / found.sum(1)[film]).sum()
