"""The loss of a batch: what is unknown is silent, and no head ever leaves the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cxr_mtl.config import LossConfig, ModelConfig
from cxr_mtl.engine.distributed import ranks
from cxr_mtl.model.multitask import MultiTaskModel, make_model
from cxr_mtl.train.ema import WeightMean
from cxr_mtl.train.objective import Objective
from cxr_mtl.train.study import enough_films, prior_logits
from cxr_mtl.types import Batch

SIDE, NAN = 64, float("nan")
PARENTS: tuple[tuple[int, ...], ...] = ((), (0,), ())


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with ranks():
        yield


@pytest.fixture
def model() -> MultiTaskModel:
    torch.manual_seed(0)
    return make_model(ModelConfig(encoder="test_convnext", image_size=SIDE, fpn_channels=16, box_convs=1), 3, 2)


def batch_of(labels: list[list[float]], boxed: list[bool]) -> Batch:
    num = len(labels)
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    return Batch(
        images=torch.randn(num, 1, SIDE, SIDE),
        labels=torch.tensor(labels),
        boxes=[box if b else box[:0] for b in boxed],
        box_findings=[torch.tensor([1]) if b else torch.zeros(0, dtype=torch.int64) for b in boxed],
        has_boxes=torch.tensor(boxed),
        absent_known=torch.ones(num, 2, dtype=torch.bool),
        index=torch.arange(num),
        step=torch.arange(num),
    )


def objective_for(batch: Batch, loss: LossConfig | None = None, **options: Any) -> Objective:
    """For films of which the batch is all."""
    labels, boxed = batch.labels.numpy(), batch.has_boxes.numpy()
    return Objective(loss or LossConfig(), PARENTS, 2, SIDE, labels, boxed, **options)


def gradients(model: MultiTaskModel, batch: Batch) -> dict[str, torch.Tensor]:
    objective = objective_for(batch)
    losses = objective(model(batch.images, objective.box_rows(batch)), batch)
    losses["total"].backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_nothing_known_moves_nothing(model: MultiTaskModel) -> None:
    found = gradients(model, batch_of([[NAN] * 3] * 2, [False, False]))
    assert all((g == 0).all() for g in found.values())


def test_film_without_boxes_moves_no_box_head(model: MultiTaskModel) -> None:
    found = gradients(model, batch_of([[1.0, 0.0, NAN]] * 2, [False, False]))
    assert all((g == 0).all() for name, g in found.items() if name.startswith("boxes."))
    assert found["findings.linear.weight"][0].abs().max() > 0
    assert (found["findings.linear.weight"][2] == 0).all()
    assert (found["hierarchy.linear.weight"][2] == 0).all()


def test_boxed_film_moves_the_box_head(model: MultiTaskModel) -> None:
    found = gradients(model, batch_of([[NAN] * 3] * 2, [True, False]))
    assert found["boxes.logits.weight"].abs().max() > 0
    assert found["boxes.deltas.weight"].abs().max() > 0
    assert (found["findings.linear.weight"] == 0).all()


def test_priors_are_the_prevalence() -> None:
    labels = np.array([[1, 1, NAN], [1, 0, 0], [0, 0, 0], [1, NAN, 1]], dtype=np.float32)
    flat, given_parents = prior_logits(labels, PARENTS)
    assert np.allclose(flat, np.log([4 / 2, 2 / 3, 2 / 3]))
    assert np.allclose(given_parents[1], np.log(2 / 2))  # one with, one without, among films with the parent
    assert enough_films(labels, 1).tolist() == [True, True, True]
    assert enough_films(labels, 2).tolist() == [False, False, False]


def test_weight_mean_follows_and_settles() -> None:
    mean = WeightMean({"w": torch.zeros(2)}, decay=0.9)
    for step in range(200):
        mean.update({"w": torch.ones(2)}, step)
    assert torch.allclose(mean.mean["w"], torch.ones(2), atol=1e-3)
    still = WeightMean({"w": torch.zeros(2)}, decay=0.9)
    still.update({"w": torch.ones(2)}, step=1000)
    assert torch.allclose(still.mean["w"], torch.full((2,), 0.1))
