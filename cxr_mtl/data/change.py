"""How pixels of a batch are changed, on a CPU and on a GPU.  B batch, S side of the old film, T of the new.

Each film is resampled by its own matrix and rounded to bytes; a table of 256 entries changes its exposure; noise is
added from a bank that is drawn once and cut out at another place for each film, since drawing a number a pixel would
cost more than all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Change:
    """What happens to each film of a batch, in this order; on the CPU.

    Attributes:
        matrix: (B, 2, 3); a point p of the old film lands at ``matrix @ p`` of the new, x then y, the film's edges at
            -1 and 1.
        contrast: (B,) factor about the film's mean.
        brightness: (B,) added, in units of the 0 to 1 range.
        gamma: (B,) exponent.
        noise: standard deviation, in units of the 0 to 1 range.
        noise_at: (B, 2) row and column of the bank where a film's noise begins, 0 to T // 2.
    """

    matrix: Tensor
    contrast: Tensor
    brightness: Tensor
    gamma: Tensor
    noise: float
    noise_at: Tensor


def change_on_cpu(images: Tensor, change: Change, side: int | None = None) -> Tensor:
    """Film by film in OpenCV.

    Args:
        images: (B, 1, S, S) uint8.
        side: T; None keeps S. Nothing is averaged: a film that is made much smaller loses what lies between.

    Returns:
        (B, 1, T, T) uint8.
    """
    import cv2

    side = side or images.shape[-1]
    old = images[:, 0].numpy()
    new = np.empty((len(old), side, side), np.uint8)
    for film, matrix in enumerate(_in_pixels(_inverse(change.matrix), images.shape[-1], side)):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(old[film], matrix, (side, side), dst=new[film], flags=flags, borderValue=0)
    mean = torch.tensor([cv2.mean(film)[0] for film in new])
    lighter, darker = _noise_bytes(side, change.noise) if change.noise else (None, None)
    for film, table in enumerate(exposure_table(mean, change).numpy()):
        cv2.LUT(new[film], table, dst=new[film])
        if lighter is not None and darker is not None:
            y, x = change.noise_at[film].tolist()
            cv2.add(new[film], lighter[y : y + side, x : x + side], dst=new[film])
            cv2.subtract(new[film], darker[y : y + side, x : x + side], dst=new[film])
    return torch.from_numpy(new)[:, None]


def change_on_device(images: Tensor, change: Change, side: int | None = None) -> Tensor:
    """The whole batch at once, where it is.

    Args:
        images: (B, 1, S, S) uint8.
        side: T; None keeps S.

    Returns:
        (B, 1, T, T) uint8.
    """
    side, device = side or images.shape[-1], images.device
    levels = warp(images.float(), change.matrix.to(device, non_blocking=True), side).round()
    tables = exposure_table(levels.mean((1, 2, 3)), change)
    changed = tables.gather(1, levels.long().flatten(1)).view_as(levels)
    if change.noise:
        bank = _noise_levels(side, change.noise, device)
        cuts = [bank[y : y + side, x : x + side] for y, x in change.noise_at.tolist()]
        changed = (changed + torch.stack(cuts)[:, None]).clamp(0, 255)
    return changed.byte()


def warp(images: Tensor, matrix: Tensor, side: int | None = None) -> Tensor:
    """Resample films by ``Change.matrix``; what comes from outside a film is 0.

    Args:
        images: (B, 1, S, S) float.
        matrix: (B, 2, 3) on the same device.
        side: T; None keeps S.
    """
    size = [*images.shape[:2], *(side or s for s in images.shape[2:])]
    grid = F.affine_grid(_inverse(matrix), size, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def exposure_table(mean: Tensor, change: Change) -> Tensor:
    """(B, 256) uint8: what each level of each film becomes.

    Args:
        mean: (B,) level of each film, 0 to 255.
    """
    contrast, brightness, gamma = (
        part.to(mean.device, torch.float32, non_blocking=True)[:, None]
        for part in (change.contrast, change.brightness, change.gamma)
    )
    mean = mean.float()[:, None] / 255
    levels = torch.arange(256, device=mean.device) / 255
    changed = ((levels - mean) * contrast + mean + brightness).clamp(0, 1) ** gamma
    return (changed * 255).round().byte()


def _inverse(matrix: Tensor) -> Tensor:
    linear = torch.linalg.inv(matrix[:, :, :2])
    return torch.cat([linear, -linear @ matrix[:, :, 2:]], 2)


def _in_pixels(matrix: Tensor, old: int, new: int) -> NDArray[np.float64]:
    """(B, 2, 3) from -1..1 at the edges to pixels counted from their centres, as OpenCV counts them.

    Args:
        matrix: (B, 2, 3) from the new film to the old.
        old: S.
        new: T.
    """
    given = matrix.double().numpy()
    linear = given[:, :, :2] * old / new
    shift = given[:, :, 2] * old / 2 + np.full(2, (old - 1) / 2) - linear @ np.full(2, (new - 1) / 2)
    return np.concatenate([linear, shift[:, :, None]], 2)


@lru_cache(maxsize=2)
def _noise_bank(side: int, noise: float) -> NDArray[np.int16]:
    """(3S/2, 3S/2) levels; the same for every run, which cuts from it where its own seed says."""
    levels = np.random.default_rng(0).standard_normal((side + side // 2,) * 2, dtype=np.float32) * noise * 255
    return np.asarray(np.clip(np.rint(levels), -255, 255), dtype=np.int16)


@lru_cache(maxsize=2)
def _noise_bytes(side: int, noise: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The bank in two: what is added and what is taken away, each of which bytes can hold."""
    bank = _noise_bank(side, noise)
    return np.maximum(bank, 0).astype(np.uint8), np.maximum(-bank, 0).astype(np.uint8)


@lru_cache(maxsize=2)
def _noise_levels(side: int, noise: float, device: torch.device) -> Tensor:
    return torch.from_numpy(_noise_bank(side, noise)).to(device)
