"""Unknown labels give neither loss nor gradient; log-space stays finite."""

from __future__ import annotations

import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from cxr_mtl.losses import findings
from cxr_mtl.losses.findings import log1mexp, masked_bce, masked_log_bce

NAN = float("nan")


def test_doctests() -> None:
    assert doctest.testmod(findings, extraglobs={"torch": torch}).failed == 0


def test_equals_sklearn_on_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 7, generator=generator)
    labels = (torch.rand(40, 7, generator=generator) < 0.4).float()
    labels[torch.rand(40, 7, generator=generator) < 0.5] = NAN
    known = ~labels.isnan()
    expected = log_loss(labels[known].numpy(), logits[known].sigmoid().double().numpy())
    assert masked_bce(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    log_p = torch.nn.functional.logsigmoid(logits)
    assert masked_log_bce(log_p, labels).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [masked_bce, lambda z, y: masked_log_bce(torch.nn.functional.logsigmoid(z), y)])
def test_unknown_gives_no_gradient(loss) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.tensor([[1, NAN, 0, NAN], [NAN] * 4, [0, 0, NAN, 1.0]])
    loss(logits, labels).backward()
    assert logits.grad is not None
    assert (logits.grad[labels.isnan()] == 0).all()
    assert (logits.grad[~labels.isnan()] != 0).all()


def test_all_unknown_is_a_differentiable_zero() -> None:
    logits = torch.randn(2, 3).requires_grad_()
    value = masked_bce(logits, torch.full((2, 3), NAN))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_shared_denominator_makes_two_ranks_one() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([[1, NAN, 0.0]] * 2 + [[NAN, NAN, 1.0]] * 4)
    whole = masked_bce(logits, labels)
    per_rank = (~labels.isnan()).sum() / 2
    halves = [masked_bce(logits[i : i + 3], labels[i : i + 3], per_rank) for i in (0, 3)]
    assert torch.stack(halves).mean().item() == pytest.approx(whole.item(), rel=1e-6)


@given(st.floats(-200, -1e-6))
def test_log1mexp(log_p: float) -> None:
    import math

    expected = math.log(-math.expm1(log_p)) if log_p > -0.7 else math.log1p(-math.exp(log_p))
    assert log1mexp(torch.tensor([log_p], dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("z", [-80.0, -1e-3, 0.0, 80.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_gradient_is_finite_at_extremes(z: float, label: float) -> None:
    logit = torch.tensor([[z]], requires_grad=True)
    masked_log_bce(torch.nn.functional.logsigmoid(logit), torch.tensor([[label]])).backward()
    assert logit.grad is not None
    assert logit.grad.isfinite().all()
