"""Augmentation moves boxes with the film, the same on every road; MONAI and torchvision move them alike."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cxr_mtl.config import AugmentConfig
from cxr_mtl.data.augment import augment, draw, move_boxes
from cxr_mtl.data.change import Change, change_on_cpu, change_on_device, exposure_table, warp
from cxr_mtl.types import Batch

SIDE = 128
PLAIN = AugmentConfig(contrast=0, brightness=0, gamma=0, noise=0)


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
        draw=torch.arange(num),
        step=torch.arange(num),
    )


def chests(num: int) -> Tensor:
    """Smooth pictures with edges, as films are; pure noise would make of the smallest shift the largest change."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    waves = [torch.sin(3 * x * (i + 1)) * torch.cos(2 * y + i) + (x.hypot(y) < 0.7).float() for i in range(num)]
    picture = torch.stack(waves)[:, None]
    return ((picture - picture.min()) / (picture.max() - picture.min()) * 255).byte()


def only(matrix: Tensor) -> Change:
    """A change that is no more than a matrix, (2, 3)."""
    change = draw(np.zeros(1, np.int64), PLAIN, seed=0, epoch=0, side=SIDE)
    return replace(change, matrix=matrix[None])


def test_box_follows_what_is_drawn() -> None:
    config = PLAIN.model_copy(update={"rotate": 15, "scale": 0.2, "shift": 0.1})
    moved = augment(batch_of((40, 30, 90, 60)), config, seed=0, epoch=0)
    for image, boxes in zip(moved.images, moved.boxes, strict=True):
        y, x = (image[0] > 127).nonzero().unbind(1)
        drawn = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        assert (boxes[0] - drawn).abs().max() <= 1.5


def test_pure_shift_by_hand() -> None:
    matrix = torch.tensor([[1.0, 0, 0.5], [0, 1.0, 0]])  # a quarter of the side to the right
    boxes, keep = move_boxes(torch.tensor([[0.0, 10, 32, 20], [100.0, 10, 128, 20]]), matrix, SIDE)
    assert boxes[0].tolist() == [32, 10, 64, 20]
    assert keep.tolist() == [True, False]  # the second left the film
    image = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)
    image[:, :, 10:20, 0:32] = 200
    for moved in (change_on_cpu(image, only(matrix)), change_on_device(image, only(matrix))):
        assert (moved[0, 0, 10:20, 32:64] == 200).all()
        assert moved.long().sum() == image.long().sum()


def test_each_box_by_its_own_film() -> None:
    """Films with one box, none and two; of the two, one is moved out of view."""
    batch = batch_of((40, 30, 90, 60), 3)
    batch.boxes = [
        torch.tensor([[40.0, 30, 90, 60]]),
        torch.zeros(0, 4),
        torch.tensor([[0.0, 0, 3, 3], [50, 50, 70, 70]]),
    ]
    batch.box_findings = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 1])]
    config = PLAIN.model_copy(update={"shift": 0.9, "rotate": 0, "scale": 0})
    matrix = draw(batch.index.numpy(), config, seed=1, epoch=0, side=SIDE).matrix
    moved = augment(batch, config, seed=1, epoch=0)
    for film in range(3):
        boxes, keep = move_boxes(batch.boxes[film], matrix[film], SIDE)
        assert torch.equal(moved.boxes[film], boxes[keep])
        assert torch.equal(moved.box_findings[film], batch.box_findings[film][keep])
    assert sum(map(len, moved.boxes)) < 3


def test_cpu_and_gpu_roads_agree() -> None:
    """The same draws give the same pictures, up to rounding: both roads run here on the CPU."""
    films = chests(24)
    config = AugmentConfig(rotate=15, scale=0.2, shift=0.1, contrast=0.4, brightness=0.2, gamma=0.4, noise=0.05)
    change = draw(np.arange(24), config, seed=3, epoch=1, side=SIDE)
    cpu, device = change_on_cpu(films, change).int(), change_on_device(films, change).int()
    assert cpu.dtype == device.dtype
    difference = (cpu - device).abs()
    assert difference.max() <= 3  # one level of the resampled film, stretched by contrast and gamma
    assert (difference > 0).float().mean() < 0.02


def test_matrix_as_monai_applies_it() -> None:
    from monai.networks.layers import AffineTransform

    films = chests(6)
    matrix = draw(np.arange(6), AugmentConfig(rotate=20, scale=0.3, shift=0.2), seed=0, epoch=0, side=SIDE).matrix
    # MONAI counts rows before columns and takes the way from the new film to the old.
    homogeneous = torch.cat([matrix, torch.tensor([0.0, 0, 1]).expand(6, 1, 3)], 1)
    swap = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    theta = swap @ torch.linalg.inv(homogeneous) @ swap
    layer = AffineTransform(normalized=True, align_corners=False, padding_mode="zeros", reverse_indexing=True)
    theirs = layer(films.float(), theta[:, :2])
    assert (warp(films.float(), matrix) - theirs).abs().max() < 0.05
    change = replace(draw(np.arange(6), PLAIN, seed=0, epoch=0, side=SIDE), matrix=matrix)
    assert (change_on_cpu(films, change) - theirs).abs().max() <= 0.6  # rounded to bytes


def test_films_and_boxes_as_torchvision_moves_them() -> None:
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    films = chests(1)
    box = torch.tensor([[30.0, 40, 70, 60], [80, 20, 110, 90]])
    for degrees, size, (dx, dy) in [(0, 1.0, (9, -4)), (12, 1.0, (0, 0)), (-7, 1.15, (5, 3)), (10, 0.9, (-6, 8))]:
        angle = math.radians(degrees)
        linear = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * size
        matrix = torch.cat([linear, torch.tensor([[dx], [dy]]) * 2 / SIDE], 1)
        given = {"angle": degrees, "translate": [dx, dy], "scale": size, "shear": [0.0, 0.0]}
        theirs = tv.affine(films, interpolation=InterpolationMode.BILINEAR, **given)
        ours = change_on_cpu(films, only(matrix))
        inner = (slice(None), slice(None), slice(25, -25), slice(25, -25))  # its edges are masked otherwise
        assert (ours.int() - theirs.int())[inner].abs().max() <= 1
        framed = tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=(SIDE, SIDE))  # type: ignore[call-overload]
        moved = tv.affine(framed, **given)
        assert (move_boxes(box, matrix, SIDE)[0] - moved).abs().max() <= 0.01


def test_exposure_by_hand() -> None:
    change = draw(np.zeros(1, np.int64), PLAIN, seed=0, epoch=0, side=SIDE)
    plain = exposure_table(torch.tensor([100.0]), change)
    assert plain[0].tolist() == list(range(256))
    doubled = exposure_table(torch.tensor([100.0]), replace(change, contrast=torch.tensor([2.0])))
    assert doubled[0, [40, 100, 150, 250]].tolist() == [0, 100, 200, 255]
    brighter = exposure_table(torch.tensor([100.0]), replace(change, brightness=torch.tensor([0.2])))
    assert brighter[0, [0, 100, 250]].tolist() == [51, 151, 255]
    darker = exposure_table(torch.tensor([100.0]), replace(change, gamma=torch.tensor([2.0])))
    assert darker[0].tolist() == [round((i / 255) ** 2 * 255) for i in range(256)]


@pytest.mark.parametrize("road", [change_on_cpu, change_on_device])
def test_noise_is_as_strong_as_asked_and_of_each_film_alone(road: object) -> None:
    films = torch.full((8, 1, SIDE, SIDE), 128, dtype=torch.uint8)
    config = PLAIN.model_copy(update={"noise": 0.05, "rotate": 0, "scale": 0, "shift": 0})
    change = draw(np.arange(8), config, seed=0, epoch=0, side=SIDE)
    added = road(films, change).double() - 128  # type: ignore[operator]
    assert added.std().item() == pytest.approx(0.05 * 255, rel=0.02)
    assert abs(added.mean().item()) < 0.5  # levels: the cuts overlap, so it is the bank's own chance mean
    correlation = np.corrcoef(added.flatten(1).numpy())
    assert np.abs(correlation - np.eye(8)).max() < 0.05


def test_seed_and_epoch_decide() -> None:
    batch = batch_of((10, 10, 60, 60))
    config = AugmentConfig()
    first, again, other, later = (
        augment(batch, config, seed=s, epoch=e).images for s, e in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, later)


def test_a_film_is_augmented_alike_in_any_company() -> None:
    """Ranks and batch sizes change who comes with whom, not what becomes of a film."""
    change = draw(np.array([5, 2, 900_000]), AugmentConfig(), seed=4, epoch=2, side=SIDE)
    alone = draw(np.array([900_000]), AugmentConfig(), seed=4, epoch=2, side=SIDE)
    assert torch.equal(change.matrix[2], alone.matrix[0])
    assert torch.equal(change.noise_at[2], alone.noise_at[0])
    many = draw(np.arange(4000), AugmentConfig(), seed=4, epoch=2, side=SIDE)
    assert torch.equal(many.matrix[5], change.matrix[0])
    assert len(np.unique(many.gamma.numpy())) > 3900  # no two films share their numbers


def test_draws_fill_their_ranges_evenly() -> None:
    config = AugmentConfig(rotate=10, shift=0.05, scale=0)
    change = draw(np.arange(4000), config, seed=0, epoch=0, side=SIDE)
    angle = torch.atan2(change.matrix[:, 1, 0], change.matrix[:, 0, 0]).rad2deg()
    for values, limit in ((angle, 10), (change.matrix[:, 0, 2], 0.1), (change.brightness, config.brightness)):
        histogram = torch.histc(values, 10, -limit, limit)
        assert histogram.sum() == 4000
        assert (histogram - 400).abs().max() < 80  # four standard deviations


def test_nothing_is_flipped() -> None:
    """A mark on the left stays on the left at the strongest settings."""
    config = AugmentConfig(rotate=45, scale=0.5, shift=0.05)
    moved = augment(batch_of((10, 54, 30, 74), 64), config, seed=0, epoch=0)
    centres = torch.stack([(b[0, 0] + b[0, 2]) / 2 for b in moved.boxes if len(b)])
    assert len(centres) > 60
    assert centres.max() < SIDE / 2


def test_a_share_of_films_is_mirrored_with_their_boxes() -> None:
    still = PLAIN.model_copy(update={"rotate": 0, "scale": 0, "shift": 0, "mirror": 0.5})
    batch = batch_of((10, 54, 30, 74), 200)
    moved = augment(batch, still, seed=0, epoch=0)
    mirrored = torch.tensor([boxes[0, 0] > SIDE / 2 for boxes in moved.boxes])
    assert 70 < mirrored.sum() < 130
    for image, boxes, flipped in zip(moved.images, moved.boxes, mirrored, strict=True):
        assert torch.equal(image, batch.images[0].flip(-1) if flipped else batch.images[0])
        assert boxes[0].tolist() == ([SIDE - 30, 54, SIDE - 10, 74] if flipped else [10, 54, 30, 74])


def test_mirroring_changes_nothing_else() -> None:
    plain, half = (draw(np.arange(50), AugmentConfig(mirror=share), seed=2, epoch=1, side=SIDE) for share in (0.0, 0.5))
    flipped = half.matrix[:, 0, 0] < 0
    assert 0 < flipped.sum() < 50
    half.matrix[flipped, 0] *= -1
    assert torch.equal(half.matrix, plain.matrix)
    assert torch.equal(half.gamma, plain.gamma)
    assert torch.equal(half.noise_at, plain.noise_at)


def test_no_box_stays_no_box() -> None:
    boxes, keep = move_boxes(torch.zeros(0, 4), torch.eye(3)[:2], SIDE)
    assert boxes.shape == (0, 4)
    assert keep.shape == (0,)


def test_packed_films_are_not_written_to() -> None:
    batch = batch_of((10, 10, 60, 60))
    before = batch.images.clone()
    augment(batch, AugmentConfig(), seed=0, epoch=0)
    assert torch.equal(batch.images, before)


@pytest.mark.parametrize("road", [change_on_cpu, change_on_device])
def test_strong_noise_and_contrast_do_not_wrap_round(road: object) -> None:
    """In bytes 250 + 20 must be 255, not 14."""
    films = torch.full((4, 1, SIDE, SIDE), 250, dtype=torch.uint8)
    config = AugmentConfig(contrast=0, brightness=0, gamma=0, noise=0.5, rotate=0, scale=0, shift=0)
    noisy = road(films, draw(np.arange(4), config, seed=0, epoch=0, side=SIDE)).float()  # type: ignore[operator]
    # Half of the normal noise is cut at the top: the mean of what is left, by its distribution's own numbers.
    drawn = np.clip(250 + np.random.default_rng(1).normal(0, 127.5, 400_000), 0, 255)
    assert noisy.mean().item() == pytest.approx(float(drawn.mean()), abs=2)
