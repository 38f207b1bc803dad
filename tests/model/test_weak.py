"""Weak boxes: around the place where a finding is, in the right frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxr_mtl.model.classify import ClassifyHead
from cxr_mtl.model.weak import weak_boxes

SIDE = 128


def test_a_box_is_round_what_glows() -> None:
    places = torch.full((2, 2, 8, 8), -6.0)
    places[0, 0, 1:3, 4:7] = 4.0  # rows 1 to 2, columns 4 to 6: pixels y 16 to 48, x 64 to 112
    places[1, 1, 6, 0] = 2.0
    boxes, scores = weak_boxes(places, SIDE)
    assert boxes.shape == (2, 2, 4)
    assert np.allclose(boxes[0, 0], [64, 16, 112, 48], atol=5)
    assert np.allclose(boxes[1, 1], [0, 96, 16, 112], atol=5)
    assert scores[0, 0] == pytest.approx(torch.tensor(4.0).sigmoid().item(), abs=0.01)
    assert scores[0, 1] < 0.01


def test_the_surest_of_two_places_is_boxed_alone() -> None:
    places = torch.full((1, 1, 8, 8), -6.0)
    places[0, 0, 1, 1], places[0, 0, 6, 6] = 3.0, 5.0
    ((box,),), _ = weak_boxes(places, SIDE)
    assert np.allclose(box, [96, 96, 112, 112], atol=5)


def test_a_map_without_a_peak_is_the_whole_film() -> None:
    boxes, scores = weak_boxes(torch.zeros(1, 1, 4, 4), SIDE)
    assert boxes[0, 0].tolist() == [0, 0, SIDE, SIDE]
    assert scores[0, 0] == 0.5


@pytest.mark.slow
def test_attention_learns_where_from_whether() -> None:
    """Films with a bright square somewhere, labelled by whether it is there, and nothing more."""
    generator = torch.Generator().manual_seed(0)
    head = ClassifyHead((4, 4), 1, pooling="attention")
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)

    def films(num: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        present = torch.rand(num, generator=generator) < 0.5
        fine = torch.randn(num, 4, 8, 8, generator=generator) * 0.3
        fine[:, 0] += 2  # the head norms each place: a place is told by which channel is the strongest
        at = torch.randint(0, 8, (num, 2), generator=generator)
        for film in present.nonzero().flatten().tolist():
            fine[film, 2, at[film, 0], at[film, 1]] += 4
        return [fine, fine[:, :, ::2, ::2] * 0], present.float()[:, None], at

    for _ in range(120):
        maps, present, _ = films(32)
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(head(maps), present).backward()
        optimizer.step()
    maps, present, at = films(200)
    right = (head(maps) > 0) == (present > 0)
    assert right.float().mean() > 0.9
    with torch.no_grad():
        boxes, _ = weak_boxes(head.places(head.normed(maps)), SIDE)
    centre = (boxes[:, 0, :2] + boxes[:, 0, 2:]) / 2 / 16 - 0.5  # places, x y
    near = np.abs(centre[:, ::-1] - at.numpy()).max(1) < 1
    assert near[present[:, 0].numpy() > 0].mean() > 0.9
