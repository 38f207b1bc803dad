"""Crops show the part of the film that they are said to show, upright, and the same on every road."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.config import AugmentConfig, CropsConfig
from cxr_mtl.data.change import change_on_cpu, change_on_device
from cxr_mtl.pretrain.crops import BLUR, _blur, draw, make_crops

STILL = AugmentConfig(rotate=0, contrast=0, brightness=0, gamma=0, noise=0)
NUMBERS = st.integers(0, 2**32).map(lambda seed: torch.from_numpy(np.random.default_rng(seed).random((8, 13))).float())


def films(num: int = 3, side: int = 64) -> torch.Tensor:
    """Smooth, and different at every place."""
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 255, (num, 8, 8), dtype=np.uint8)
    return torch.from_numpy(np.stack([cv2.resize(f, (side, side), interpolation=cv2.INTER_CUBIC) for f in rough]))[
        :, None
    ]


@given(NUMBERS)
def test_a_crop_is_as_large_as_asked_and_upright(unit: torch.Tensor) -> None:
    change = draw(unit, (0.3, 0.6), 0.2, AugmentConfig(), 32)
    area = 1 / torch.linalg.det(change.matrix[:, :, :2])  # mirrored films have a negative one
    assert (area <= 0.601).all()
    assert (area >= 0.299 / 1.2).all()  # a crop that would be wider than the film is cut to it
    across, down = change.matrix[:, 0, :2], change.matrix[:, 1, :2]
    assert (across[:, 0] > across[:, 1].abs()).all()  # right stays right, and mostly right
    assert (down[:, 1] > down[:, 0].abs()).all()


@given(NUMBERS)
def test_only_asked_for_is_a_film_mirrored(unit: torch.Tensor) -> None:
    change = draw(unit, (0.3, 0.6), 0.2, AugmentConfig(mirror=0.5), 32)
    assert ((torch.linalg.det(change.matrix[:, :, :2]) < 0) == (unit[:, 10] < 0.5)).all()


@given(NUMBERS)
def test_an_unturned_crop_lies_inside_the_film(unit: torch.Tensor) -> None:
    change = draw(unit, (0.1, 1.0), 0.2, STILL, 32)
    corners = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    linear, shift = change.matrix[:, :, :2], change.matrix[:, :, 2]
    old = (corners - shift[:, None]) @ torch.linalg.inv(linear).mT
    assert old.abs().max() <= 1.0001


def test_a_crop_is_what_opencv_cuts_out_and_resizes() -> None:
    film = films(1)
    unit = torch.full((1, 13), 0.5)
    unit[:, 0], unit[:, 2], unit[:, 3] = 0.25 / 1.0, 1.0, 0.0  # a quarter of the area, right and up
    change = draw(unit, (0.0001, 1.0), 0.0, STILL, 32)
    size = (32, 32)
    expected = cv2.resize(film[0, 0, :32, 32:].numpy(), size, interpolation=cv2.INTER_LINEAR)
    for road in (change_on_cpu, change_on_device):
        got = road(film, change, 32)[0, 0].numpy()
        assert np.abs(got.astype(int) - expected.astype(int))[1:-1, 1:-1].max() <= 2


def test_both_roads_give_the_same_crops() -> None:
    unit = torch.from_numpy(np.random.default_rng(1).random((3, 13))).float()
    change = draw(unit, (0.2, 0.5), 0.2, AugmentConfig(), 48)
    difference = change_on_cpu(films(), change, 48).int() - change_on_device(films(), change, 48).int()
    assert difference.abs().float().mean() < 0.5
    assert difference.abs().max() <= 8  # contrast and gamma stretch a difference in rounding


def test_what_a_crop_shows_follows_from_seed_epoch_and_row_alone() -> None:
    crops, rows = CropsConfig(), np.array([5, 2, 9])
    large, small = make_crops(films(), rows, crops, AugmentConfig(), seed=1, epoch=2)
    assert [c.shape[-1] for c in (*large, *small)] == [64, 64, 32, 32, 32, 32]
    alone = make_crops(films()[1:2], rows[1:2], crops, AugmentConfig(), seed=1, epoch=2)
    for together, one in zip((*large, *small), (*alone[0], *alone[1]), strict=True):
        assert torch.equal(together[1:2], one)
    other = make_crops(films(), rows, crops, AugmentConfig(), seed=1, epoch=3)
    assert not torch.equal(large[0], other[0][0])
    assert not torch.equal(large[0], large[1])


def test_blur_is_opencvs() -> None:
    crop = films(2)
    unit = torch.tensor([[0.1, 1.0], [0.9, 1.0]])
    got = _blur(crop.clone(), unit, 0.5)
    assert torch.equal(got[1], crop[1])
    expected = cv2.GaussianBlur(crop[0, 0].numpy(), (5, 5), BLUR * 64, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(got[0, 0].numpy().astype(int) - expected.astype(int)).max() <= 1
    assert not np.array_equal(got[0, 0].numpy(), crop[0, 0].numpy())


@pytest.mark.parametrize("sizes", [{"large_size": 48}, {"large_size": 48, "small_size": 40}])
def test_sizes_of_crops(sizes: dict[str, int]) -> None:
    large, small = make_crops(films(), np.arange(3), CropsConfig(small=1, **sizes), STILL, seed=0, epoch=0)
    assert (large[0].shape[-1], small[0].shape[-1]) == (48, sizes.get("small_size", 24))
