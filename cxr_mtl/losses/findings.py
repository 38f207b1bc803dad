"""Losses over labels of which many are unknown.  B batch, C findings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel
from torch import Tensor

LOG_HALF = -math.log(2.0)
# Nearest to 0 that log p may come: log(1 - p) of a log p of 0 is -inf, and its gradient nan. About float32's step.
CEILING = -1e-7


def masked_bce(
    logits: Tensor, labels: Tensor, known_total: Tensor | float | None = None, positive_weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy over the findings that are labelled.

    An unlabelled finding is unknown, not absent: it adds neither loss nor gradient.

    Args:
        logits: (B, C).
        labels: (B, C) 1 present, 0 absent, nan unknown; between them what is learned of an uncertain one.
        known_total: what to divide by; None for the labelled entries given here. Ranks that share a step pass their
            mean over ranks, or each would weigh its own films by how few of them are labelled.
        positive_weight: (C,) weight of presence; None weighs presence and absence alike.

    Returns:
        () mean over labelled entries; a differentiable 0 when there are none.

    >>> nan = float("nan")
    >>> masked_bce(torch.zeros(2, 3), torch.tensor([[1, 0, nan], [nan, nan, nan]]))
    tensor(0.6931)
    """
    known, truth = _known(labels)
    loss = F.binary_cross_entropy_with_logits(logits.float(), truth, pos_weight=positive_weight, reduction="none")
    return _mean_of_known(loss, known, known_total)


def masked_log_bce(
    log_p: Tensor, labels: Tensor, known_total: Tensor | float | None = None, positive_weight: Tensor | None = None
) -> Tensor:
    """The same from log-probabilities, for outputs that are products of sigmoids.

    Args:
        log_p: (B, C) at most 0.
        labels: (B, C) 1 present, 0 absent, nan unknown.
        known_total: as in ``masked_bce``.
        positive_weight: as in ``masked_bce``.

    >>> masked_log_bce(torch.tensor([[0.5]]).log(), torch.tensor([[0.0]]))
    tensor(0.6931)
    """
    known, truth = _known(labels)
    weight = 1.0 if positive_weight is None else positive_weight
    loss = -(weight * truth * log_p + (1 - truth) * log1mexp(log_p))
    return _mean_of_known(loss, known, known_total)


def masked_asymmetric(
    logits: Tensor, labels: Tensor, known_total: Tensor | float | None = None, positive_weight: Tensor | None = None
) -> Tensor:
    """Asymmetric loss over the findings that are labelled (Ridnik et al., 2021; timm's, with its own strengths).

    Args:
        logits: (B, C).
        labels: (B, C) 1 present, 0 absent, nan unknown.
        known_total: as in ``masked_bce``.
        positive_weight: as in ``masked_bce``.
    """
    known, truth = _known(labels)
    loss = AsymmetricLossMultiLabel(reduction="none", pos_weight=positive_weight)(logits, truth)
    return _mean_of_known(loss, known, known_total)


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - exp(log_p)) without cancellation, with a finite gradient everywhere (Mächler, 2012)."""
    log_p = log_p.clamp(max=CEILING)
    near_zero = log_p > LOG_HALF
    # Each branch sees only values it is stable for; a plain `where` would let the other's nan into the gradient.
    small = torch.log(-torch.expm1(log_p.where(near_zero, log_p.new_full((), LOG_HALF))))
    large = torch.log1p(-torch.exp(log_p.where(~near_zero, log_p.new_full((), LOG_HALF))))
    return small.where(near_zero, large)


def _known(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where a label is known, and the labels with 0 for those that are not.

    Before the loss, not after: nan * 0 is nan, so masking afterwards would poison the gradient.
    """
    return ~labels.isnan(), labels.nan_to_num(0.0).float()


def _mean_of_known(loss: Tensor, known: Tensor, known_total: Tensor | float | None) -> Tensor:
    total = known.sum() if known_total is None else known_total
    divisor = torch.as_tensor(total, dtype=loss.dtype, device=loss.device).clamp(min=1e-9)
    return (loss * known).sum() / divisor
