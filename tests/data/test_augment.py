"""Augmentation moves boxes with the film."""

from __future__ import annotations

import pytest
import torch

from cxr_mtl.config import AugmentConfig
from cxr_mtl.data.augment import augment, move_boxes, warp
from cxr_mtl.types import Batch

SIDE = 128


def batch_of(box: tuple[int, int, int, int], num: int = 16) -> Batch:
    x1, y1, x2, y2 = box
    images = torch.zeros(num, 1, SIDE, SIDE, dtype=torch.uint8)
    images[:, :, y1:y2, x1:x2] = 255
    return Batch(
        images=images,
        labels=torch.ones(num, 2),
        boxes=[torch.tensor([box], dtype=torch.float32)] * num,
        box_findings=[torch.tensor([1])] * num,
        has_boxes=torch.ones(num, dtype=torch.bool),
        absent_known=torch.ones(num, 2, dtype=torch.bool),
        index=torch.arange(num),
    )


def test_box_follows_what_is_drawn() -> None:
    config = AugmentConfig(rotate=15, scale=0.2, shift=0.1, contrast=0, brightness=0, noise=0)
    moved = augment(batch_of((40, 30, 90, 60)), config, torch.Generator().manual_seed(0))
    for image, boxes in zip(moved.images, moved.boxes, strict=True):
        y, x = (image[0] > 0.5).nonzero().unbind(1)
        drawn = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        assert (boxes[0] - drawn).abs().max() <= 1.5


def test_pure_shift_by_hand() -> None:
    matrix = torch.tensor([[1.0, 0, 0.5], [0, 1.0, 0]])  # a quarter of the side to the right
    boxes, keep = move_boxes(torch.tensor([[0.0, 10, 32, 20], [100.0, 10, 128, 20]]), matrix, SIDE)
    assert boxes[0].tolist() == [32, 10, 64, 20]
    assert keep.tolist() == [True, False]  # the second left the film
    image = torch.zeros(1, 1, SIDE, SIDE)
    image[:, :, 10:20, 0:32] = 1
    assert warp(image, matrix[None])[0, 0, 15, 32:64].min() > 0.9


def test_seed_decides() -> None:
    config = AugmentConfig()
    first, again, other = (
        augment(batch_of((10, 10, 60, 60)), config, torch.Generator().manual_seed(s)).images for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_is_flipped() -> None:
    """A mark on the left stays on the left at the strongest settings."""
    config = AugmentConfig(rotate=45, scale=0.5, shift=0.05)
    moved = augment(batch_of((10, 54, 30, 74), 64), config, torch.Generator().manual_seed(0))
    centres = torch.stack([(b[0, 0] + b[0, 2]) / 2 for b in moved.boxes if len(b)])
    assert centres.max() < SIDE / 2


def test_no_box_stays_no_box() -> None:
    boxes, keep = move_boxes(torch.zeros(0, 4), torch.eye(3)[:2], SIDE)
    assert boxes.shape == (0, 4)
    assert keep.shape == (0,)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_range_stays(strength: float) -> None:
    config = AugmentConfig(contrast=strength, brightness=strength, noise=strength)
    images = augment(batch_of((10, 10, 60, 60)), config, torch.Generator().manual_seed(0)).images
    assert images.min() >= 0
    assert images.max() <= 1
