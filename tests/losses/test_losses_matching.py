"""The box loss of all films at once is what MONAI's detector gives film by film: value, gradients, chosen anchors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.utils.anchor_utils import AnchorGenerator
from torch import Tensor, nn

from cxr_mtl.losses.boxes import BoxLoss
from cxr_mtl.model.localize import NUM_ANCHORS, make_anchors

FINDINGS = 3


class Shape(nn.Module):
    """What MONAI's detector asks of a network that is never called."""

    spatial_dims, size_divisible, cls_key, box_reg_key = 2, 32, "classification", "box_regression"
    num_classes, num_anchors = FINDINGS, NUM_ANCHORS


def monai_detector() -> Any:
    detector = RetinaNetDetector(Shape(), AnchorGenerator(sizes=((8,) * NUM_ANCHORS,), aspect_ratios=((1.0,),)))
    detector.set_atss_matcher(num_candidates=4, center_in_gt=False)
    detector.set_hard_negative_sampler(batch_size_per_image=64, positive_fraction=0.25, min_neg=16, pool_size=10)
    return detector


def film_by_film(
    anchors: list[Tensor], logits: Tensor, deltas: Tensor, boxes: list[Tensor], findings: list[Tensor], vouched: Tensor
) -> Tensor:
    """MONAI's own losses; film number n draws its anchors by the seed n."""
    detector, every, total = monai_detector(), torch.cat(anchors), logits.new_zeros(())
    places = [len(level) // NUM_ANCHORS for level in anchors]
    for film, (b, f) in enumerate(zip(boxes, findings, strict=True)):
        target = {"boxes": b, "labels": f}
        (match,) = detector.compute_anchor_matched_idxs([every], [target], places)
        with torch.random.fork_rng([]):
            torch.manual_seed(film)
            sampled, truth = detector.get_cls_train_sample_per_image(logits[film], target, match)
        known = (vouched[film] | (truth > 0)).float()
        loss = F.binary_cross_entropy_with_logits(sampled, truth, reduction="none")
        total = total + (loss * known).sum() / known.sum().clamp(min=1)
        if (match >= 0).any():
            total = total + detector.compute_box_loss(deltas[film : film + 1], [target], [every], [match])
    return total


def draw(side: int, most: int, random: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Up to so many boxes on each of six films, from specks to whole films; the second of a film is drawn twice."""
    boxes, findings = [], []
    for film in range(6):
        num = film % (most + 1)
        size = (torch.rand(num, 2, generator=random) * 0.9 + 0.02) * side
        corner = torch.rand(num, 2, generator=random) * (side - size)
        drawn = torch.cat([corner, corner + size], 1)
        if num > 2:
            drawn[2] = drawn[1]
        boxes.append(drawn)
        findings.append(torch.randint(FINDINGS, (num,), generator=random))
    return boxes, findings


@pytest.mark.parametrize(
    ("side", "most"), [(64, 0), (64, 4), (224, 1), (224, 5), pytest.param(384, 3, marks=pytest.mark.slow)]
)
def test_equals_monai_film_by_film(side: int, most: int) -> None:
    random = torch.Generator().manual_seed(side + most)
    anchors = make_anchors(side)
    num = sum(map(len, anchors))
    logits, deltas = torch.randn(6, num, FINDINGS, generator=random), torch.randn(6, num, 4, generator=random)
    boxes, findings = draw(side, most, random)
    vouched = torch.rand(6, FINDINGS, generator=random) < 0.5
    found = []
    for loss in (
        lambda *given: film_by_film(anchors, *given, vouched),
        lambda *given: BoxLoss(FINDINGS, anchors, NUM_ANCHORS)(*given, vouched, range(6)),
    ):
        given = logits.clone().requires_grad_(), deltas.clone().requires_grad_()
        value = loss(*given, boxes, findings)
        value.backward()
        found.append((value.detach(), given[0].grad, given[1].grad))
    for theirs, ours in zip(*found, strict=True):
        if theirs is None:  # no box anywhere: MONAI leaves the regression out of the graph, ours is in it with 0
            assert most == 0
            assert not ours.any()
            continue
        assert torch.allclose(theirs, ours, rtol=1e-5, atol=1e-7)
        assert theirs.abs().max() > 0 or most == 0


def test_films_do_not_depend_on_one_another() -> None:
    random = torch.Generator().manual_seed(0)
    anchors = make_anchors(96)
    loss, num = BoxLoss(FINDINGS, anchors, NUM_ANCHORS), sum(map(len, anchors))
    logits, deltas = torch.randn(6, num, FINDINGS, generator=random), torch.randn(6, num, 4, generator=random)
    boxes, findings = draw(96, 3, random)
    vouched = torch.ones(6, FINDINGS, dtype=torch.bool)
    together = loss(logits, deltas, boxes, findings, vouched, range(6))
    alone = sum(
        loss(logits[i, None], deltas[i, None], [boxes[i]], [findings[i]], vouched[i, None], [i]) for i in range(6)
    )
    assert torch.allclose(together, alone)
    assert not torch.allclose(together, loss(logits, deltas, boxes, findings, vouched, range(1, 7)))


def test_work_does_not_grow_with_the_films() -> None:
    """A GPU waits for the host's small steps; film by film there would be thousands in a batch of 128."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        steps = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.steps += "randperm" not in str(func)
            return func(*args, **(kwargs or {}))

    anchors = make_anchors(64)
    loss, num = BoxLoss(FINDINGS, anchors, NUM_ANCHORS), sum(map(len, anchors))
    steps = []
    for films in (2, 32):
        box, finding = torch.tensor([[8.0, 8.0, 40.0, 30.0]]), torch.zeros(1, dtype=torch.int64)
        logits, deltas = torch.randn(films, num, FINDINGS), torch.randn(films, num, 4)
        with Count() as count:
            loss(
                logits,
                deltas,
                [box] * films,
                [finding] * films,
                torch.ones(films, FINDINGS, dtype=torch.bool),
                range(films),
            )
        steps.append(count.steps)
    assert steps[1] < steps[0] + 30 * 6  # some bookkeeping of the random numbers on the host, nothing else
