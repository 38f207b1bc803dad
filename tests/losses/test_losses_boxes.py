"""The box loss: attached when there is nothing, silent on what nobody vouched for, and it can be learned."""

from __future__ import annotations

import pytest
import torch

from cxr_mtl.losses.boxes import BoxLoss
from cxr_mtl.model.localize import NUM_ANCHORS, decode, make_anchors

SIDE = 64
ANCHORS = make_anchors(SIDE)
N = sum(map(len, ANCHORS))


@pytest.fixture
def loss() -> BoxLoss:
    torch.manual_seed(0)
    return BoxLoss(2, ANCHORS, NUM_ANCHORS)


def box(*xyxy: float) -> torch.Tensor:
    return torch.tensor([xyxy], dtype=torch.float32)


def test_no_film_is_a_differentiable_zero(loss: BoxLoss) -> None:
    logits, deltas = torch.randn(1, N, 2, requires_grad=True), torch.randn(1, N, 4, requires_grad=True)
    value = loss(logits, deltas, [], [], torch.ones(0, 2, dtype=torch.bool), [])
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()
    assert (deltas.grad == 0).all()


def test_film_without_box_keeps_the_regression_attached(loss: BoxLoss) -> None:
    logits, deltas = torch.randn(1, N, 2, requires_grad=True), torch.randn(1, N, 4, requires_grad=True)
    empty, none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    loss(logits, deltas, [empty], [none], torch.ones(1, 2, dtype=torch.bool), [0]).backward()
    assert deltas.grad is not None
    assert (logits.grad != 0).any()


def test_unvouched_finding_gets_no_gradient(loss: BoxLoss) -> None:
    logits, deltas = torch.randn(1, N, 2, requires_grad=True), torch.zeros(1, N, 4, requires_grad=True)
    vouched = torch.tensor([[True, False]])
    loss(logits, deltas, [box(10, 10, 40, 30)], [torch.tensor([0])], vouched, [0]).backward()
    assert (logits.grad[..., 1] == 0).all()
    assert (logits.grad[..., 0] != 0).any()


def test_right_answer_costs_less_than_wrong(loss: BoxLoss) -> None:
    truth, vouched = box(8, 16, 40, 56), torch.ones(1, 2, dtype=torch.bool)
    logits = torch.full((1, N, 2), -8.0)
    anchors = torch.cat(ANCHORS)
    size, centre = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    t_size, t_centre = truth[:, 2:] - truth[:, :2], (truth[:, 2:] + truth[:, :2]) / 2
    right = torch.cat([(t_centre - centre) / size, (t_size / size).log()], 1)[None]
    assert torch.allclose(decode(right[0], anchors), truth.expand(N, 4), atol=1e-3)

    def cost(deltas: torch.Tensor) -> float:
        return float(loss(logits, deltas, [truth], [torch.tensor([1])], vouched, [0]))

    assert cost(right) < cost(torch.zeros(1, N, 4))
