"""Losses of the tree: asked only where the parents are there; a parent learns through no child that is absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mtl.losses.findings import log1mexp, masked_asymmetric, masked_bce
from cxr_mtl.losses.tree import asked, max_constraint
from cxr_mtl.metrics.hierarchy import given_parents
from cxr_mtl.model.hierarchy import log_probability

NAN = float("nan")
# lung 0; pleura 1; opacity 2 under lung; effusion 3 under pleura and opacity
PARENTS = ((), (), (0,), (1, 2))


def test_asked_equals_the_metrics_own() -> None:
    labels = np.random.default_rng(0).choice([0.0, 1.0, NAN], (200, 4)).astype(np.float32)
    found = asked(torch.from_numpy(labels), PARENTS).numpy()
    np.testing.assert_array_equal(found, given_parents(labels, PARENTS).astype(np.float32))


def test_max_constraint_by_hand() -> None:
    logits = torch.tensor([[-2.0, -3.0, 1.0, 2.0]]).repeat(3, 1)
    labels = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, NAN, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    expected = torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 1.0, 2.0], [2.0, 2.0, 2.0, 2.0]])
    assert torch.equal(max_constraint(logits, labels, PARENTS), expected)


def test_max_constraint_is_the_published_one_on_probabilities() -> None:
    """C-HMCNN: present nodes max over y h, absent ones max over h, of all below (Giunchiglia and Lukasiewicz, 2020)."""
    below = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]]).bool()
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    labels = (torch.rand(50, 4, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    labels[:, 2] = torch.maximum(labels[:, 2], labels[:, 3])
    labels[:, 1] = torch.maximum(labels[:, 1], labels[:, 3])
    labels[:, 0] = torch.maximum(labels[:, 0], labels[:, 2])
    h = logits.sigmoid()
    of_all = torch.where(below, h[:, None], torch.zeros(())).amax(2)
    of_present = torch.where(below, (labels * h)[:, None], torch.zeros(())).amax(2)
    expected = (1 - labels) * of_all + labels * of_present
    assert torch.allclose(max_constraint(logits, labels, PARENTS).sigmoid(), expected)


def test_a_present_parent_does_not_raise_an_absent_child() -> None:
    logits = torch.tensor([[-2.0, -3.0, 1.0, 2.0]], requires_grad=True)
    labels = torch.tensor([[1.0, NAN, NAN, 0.0]])
    masked_bce(max_constraint(logits, labels, PARENTS), labels).backward()
    assert logits.grad is not None
    lung, pleura, opacity, effusion = logits.grad[0].tolist()
    assert lung < 0 < effusion
    assert pleura == opacity == 0


def test_a_child_that_nobody_teaches_takes_no_gradient_of_its_parents() -> None:
    logits = torch.tensor([[-2.0, -3.0, -1.0, 2.0]], requires_grad=True)
    labels = torch.tensor([[0.0, 0.0, 0.0, NAN]])
    masked_bce(max_constraint(logits, labels, PARENTS, torch.tensor([True, True, True, False])), labels).backward()
    assert logits.grad is not None
    assert logits.grad[0, 3] == 0
    assert (logits.grad[0, 1:3] > 0).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["conditional", "max", "flat"]), st.sampled_from([1.0, 20.0, 80.0]), st.integers(0, 999))
def test_every_tree_is_finite_and_keeps_its_promise(tree: str, spread: float, seed: int) -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)) * spread
    logits.requires_grad_()
    log_p = log_probability(logits, PARENTS, tree)  # type: ignore[arg-type]
    if tree == "flat":
        assert torch.allclose(log_p, torch.nn.functional.logsigmoid(logits))
    else:
        assert all((log_p[:, c] <= log_p[:, p]).all() for c, above in enumerate(PARENTS) for p in above)
    masked_asymmetric(log_p - log1mexp(log_p), (log_p.detach() > -1).float()).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("z", [-80.0, 0.0, 80.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("loss", [masked_bce, masked_asymmetric])
def test_gradients_are_finite_at_extremes(loss, z: float, label: float) -> None:  # type: ignore[no-untyped-def]
    logit = torch.tensor([[z]], requires_grad=True)
    loss(logit, torch.tensor([[label]]), positive_weight=torch.tensor([3.0])).backward()
    assert logit.grad is not None
    assert logit.grad.isfinite().all()


def test_unknown_gives_the_asymmetric_loss_no_gradient() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    labels = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, NAN]])
    masked_asymmetric(logits, labels).backward()
    assert logits.grad is not None
    assert ((logits.grad != 0) == ~labels.isnan()).all()


def test_positive_weight_counts_presence_so_many_times() -> None:
    logits, labels = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    plain, heavy = (masked_bce(logits, labels, positive_weight=w) for w in (None, torch.tensor([3.0])))
    assert heavy.item() == pytest.approx(2 * plain.item())
