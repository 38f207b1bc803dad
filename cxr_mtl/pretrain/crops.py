"""Crops of films, each moved, turned and exposed for itself.  B batch, S side of a film.

Safe for chests: never mirrored unless the run file asks (the heart is on the left), never solarised (a film's negative
is another film), always upright but for some degrees. Crops are bytes, as all films that a network is shown.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cxr_mtl.config import AugmentConfig
from cxr_mtl.config.pretrain import CropsConfig
from cxr_mtl.data.chance import CROPS, film_numbers
from cxr_mtl.data.change import Change, change_on_cpu, change_on_device

_DRAWS = 13  # random numbers a crop
BLUR = 0.01  # largest standard deviation of a blur, as a share of the crop's side


def make_crops(
    films: Tensor,
    rows: NDArray[np.int64],
    crops: CropsConfig,
    augment: AugmentConfig,
    *,
    seed: int,
    epoch: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Cut the large and the small crops of some films, on the device where the films are.

    What a crop shows follows from seed, epoch and the film's row of the manifest alone.

    Args:
        films: (B, 1, S, S) uint8.
        rows: (B,) of the manifest.
        crops: numbers, sizes and areas.
        augment: turning and exposure; of its scale and shift nothing is used, cropping does both.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        the large crops, each (B, 1, L, L) uint8, and the small ones, each (B, 1, l, l).
    """
    num = crops.large + crops.small
    numbers = film_numbers(rows, num * _DRAWS, seed=seed, epoch=epoch, stream=CROPS)
    unit = torch.from_numpy(numbers).float().view(len(rows), num, _DRAWS)
    large, small = sizes(crops, films.shape[-1])
    made = []
    for crop in range(num):
        is_large = crop < crops.large
        side, area = (large, crops.large_area) if is_large else (small, crops.small_area)
        change = draw(unit[:, crop], area, crops.stretch, augment, side)
        apply = change_on_cpu if films.device.type == "cpu" else change_on_device
        made.append(_blur(apply(films, change, side), unit[:, crop, 11:13], crops.blur))
    return made[: crops.large], made[crops.large :]


def sizes(crops: CropsConfig, side: int) -> tuple[int, int]:
    """Sides of the large and the small crops, pixels, of films of a side."""
    large = crops.large_size or side
    return large, crops.small_size or large // 2


def draw(unit: Tensor, area: tuple[float, float], stretch: float, augment: AugmentConfig, side: int) -> Change:
    """What is to happen to one crop of each film.

    Args:
        unit: (B, 11 or more) numbers from 0 to 1.
        area: least and largest share of the film's area.
        stretch: largest change of proportions, as a share.
        augment: turning and exposure.
        side: of the crop, pixels.
    """
    either_way = unit * 2 - 1
    share = area[0] + unit[:, 0] * (area[1] - area[0])
    shape = torch.exp(either_way[:, 1] * math.log1p(stretch) / 2)
    # Half the width and height in units of half the film's; no crop is wider than the film.
    half = torch.stack([share.sqrt() * shape, share.sqrt() / shape], 1).clamp(max=1)
    center = either_way[:, 2:4] * (1 - half)
    angle = either_way[:, 4] * math.radians(augment.rotate)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # (B, 2, 2)
    mirrored = torch.where(unit[:, 10] < augment.mirror, -1.0, 1.0)
    zoom = torch.stack([mirrored / half[:, 0], 1 / half[:, 1]], 1)
    linear = zoom[:, :, None] * turn
    return Change(
        matrix=torch.cat([linear, -linear @ center[:, :, None]], 2),
        contrast=torch.exp(either_way[:, 5] * math.log1p(augment.contrast)),
        brightness=either_way[:, 6] * augment.brightness,
        gamma=torch.exp(either_way[:, 7] * math.log1p(augment.gamma)),
        noise=augment.noise,
        noise_at=(unit[:, 8:10] * (side // 2 + 1)).long(),
    )


def _blur(crops: Tensor, unit: Tensor, share: float) -> Tensor:
    """Blur some crops, each by as much as its second number says."""
    chosen = (unit[:, 0] < share).nonzero().flatten().to(crops.device)
    if not len(chosen):
        return crops
    side = crops.shape[-1]
    sigma = (unit[:, 1].to(crops.device)[chosen] * BLUR * side).clamp(min=0.1)
    reach = max(1, math.ceil(3 * BLUR * side))
    at = torch.arange(-reach, reach + 1, device=crops.device)
    kernel = torch.exp(-0.5 * (at / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, None]  # (b, 1, taps)
    films = F.pad(crops[chosen, 0].float()[None], [reach] * 4, mode="replicate")  # (1, b, ...): a channel a crop
    films = F.conv2d(films, kernel[:, :, None, :], groups=len(chosen))
    films = F.conv2d(films, kernel[:, :, :, None], groups=len(chosen))
    crops[chosen] = films[0, :, None].round().byte()
    return crops
