"""The loss of a batch: what is unknown is silent, and no head ever leaves the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cxr_mtl.config import LossConfig, ModelConfig
from cxr_mtl.config.model import Tree
from cxr_mtl.engine.distributed import ranks
from cxr_mtl.model.multitask import MultiTaskModel, make_model
from cxr_mtl.train.balance import Balance
from cxr_mtl.train.ema import WeightMean
from cxr_mtl.train.objective import Objective
from cxr_mtl.train.study import enough_films, positive_weights, prior_logits
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
        draw=torch.arange(num),
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


def total(model: MultiTaskModel, batch: Batch, loss: LossConfig, **options: Any) -> dict[str, float]:
    objective = objective_for(batch, loss, **options)
    with torch.no_grad():
        return {name: float(value) for name, value in objective(model.eval()(batch.images), batch).items()}


def test_a_part_of_a_step_counts_by_what_it_knows(model: MultiTaskModel) -> None:
    """Two halves of a step, one of which knows three times as much, mean what the whole means."""
    labels = [[1.0, 0.0, 1.0]] * 2 + [[NAN, 1.0, NAN]] * 2
    whole = batch_of(labels, [True, False, True, True])
    objective = objective_for(whole)
    model.eval()
    with torch.no_grad():
        expected = objective(model(whole.images, objective.box_rows(whole)), whole, seed=3)
        found = []
        for rows in ([0, 1], [2, 3]):
            part = Batch(
                images=whole.images[rows],
                labels=whole.labels[rows],
                boxes=[whole.boxes[r] for r in rows],
                box_findings=[whole.box_findings[r] for r in rows],
                has_boxes=whole.has_boxes[rows],
                absent_known=whole.absent_known[rows],
                index=whole.index[rows],
                draw=whole.draw[rows],
                step=whole.step,
            )
            found.append(objective(model(part.images, objective.box_rows(part)), part, seed=3))
    for head, value in expected.items():
        assert torch.allclose((found[0][head] + found[1][head]) / 2, value, rtol=1e-5), head


def test_conditional_stage_asks_only_below_present_parents(model: MultiTaskModel) -> None:
    batch = batch_of([[0.0, 1.0, NAN], [1.0, 1.0, 0.0]], [False, False])
    objective = objective_for(batch)
    outputs = model(batch.images, objective.box_rows(batch))
    objective(outputs, batch, conditional=True)["hierarchy"].backward(inputs=[outputs.hierarchy], retain_graph=True)
    assert outputs.hierarchy.grad is not None
    assert ((outputs.hierarchy.grad != 0) == torch.tensor([[True, False, False], [True, True, True]])).all()


def test_smoothing_and_weights_of_presence(model: MultiTaskModel) -> None:
    batch = batch_of([[1.0, NAN, 0.0], [0.0, NAN, 0.0]], [False, False])
    plain = total(model, batch, LossConfig())
    smooth = total(model, batch, LossConfig(smoothing=0.1))
    turned = total(model, batch_of([[0.0, NAN, 1.0], [1.0, NAN, 1.0]], [False, False]), LossConfig())
    assert smooth["findings"] == pytest.approx(plain["findings"], rel=0.2)
    assert turned["total"] != plain["total"]
    heavy = total(model, batch, LossConfig(), positives=np.array([5, 1, 1], np.float32))
    assert heavy["findings"] > plain["findings"]
    assert positive_weights(np.array([[1, 0], [0, 0], [0, 1], [0, NAN]], np.float32), 2.5) == pytest.approx([2.5, 2])
    assert positive_weights(np.zeros((3, 1), np.float32), 4) == pytest.approx([1])
    assert positive_weights(np.zeros((3, 1), np.float32), 1) is None


def test_smoothed_labels_are_the_mixture(model: MultiTaskModel) -> None:
    batch = batch_of([[1.0, 0.0, 0.0]], [False])
    opposite = batch_of([[0.0, 1.0, 1.0]], [False])
    opposite.images = batch.images
    mixed = 0.9 * total(model, batch, LossConfig())["findings"] + 0.1 * total(model, opposite, LossConfig())["findings"]
    assert total(model, batch, LossConfig(smoothing=0.1))["findings"] == pytest.approx(mixed, rel=1e-5)


@pytest.mark.parametrize("tree", ["max", "flat"])
@pytest.mark.parametrize("kind", ["bce", "asymmetric"])
def test_every_tree_and_loss_learns(model: MultiTaskModel, tree: Tree, kind: Any) -> None:
    batch = batch_of([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [True, False])
    objective = objective_for(batch, LossConfig(kind=kind, balance="uncertainty"), tree=tree)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(15):
        losses = objective(model(batch.images, objective.box_rows(batch)), batch)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        seen.append((losses["findings"] + losses["hierarchy"]).item())
    assert seen[-1] < 0.7 * seen[0]


def test_uncertainty_weights_settle_at_one_over_the_loss() -> None:
    balance = Balance(3)
    losses = torch.tensor([0.5, 2.0, 0.0])
    for _ in range(3000):
        balance.learn(losses, [True, True, True])
    assert balance.weights().tolist() == pytest.approx([2.0, 0.5, 1.0], rel=0.02)
    balance.learn(losses, [False, True, True])
    assert balance.weights()[0].item() == pytest.approx(2.0, rel=0.02)
