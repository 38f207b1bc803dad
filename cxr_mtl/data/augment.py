"""Augmentation of whole batches, films and boxes by one matrix.  B batch, S input side, K boxes.

Batched on whatever device the batch is on. Never a horizontal flip: the heart is on the left.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_mtl.config import AugmentConfig
from cxr_mtl.types import Batch

MIN_SIDE = 2.0  # pixels; a box that augmentation cuts down to less is left out
MIN_SHARE = 0.25  # of a box's area that must stay in view for it to stay a box


def augment(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> Batch:
    """Move, turn and stretch films with their boxes, and change their exposure.

    Args:
        batch: images (B, 1, S, S) uint8.
        config: strengths.
        generator: CPU generator; the same state gives the same batch on any device.

    Returns:
        a batch with images (B, 1, S, S) float, 0 to 1, and boxes in the new frame.
    """
    images = batch.images.float() / 255
    matrix = _random_affine(len(images), config, generator).to(images.device)
    images = warp(images, matrix)
    images = _expose(images, config, generator)
    moved = [move_boxes(b, m, images.shape[-1]) for b, m in zip(batch.boxes, matrix, strict=True)]
    return Batch(
        images=images,
        labels=batch.labels,
        boxes=[boxes[keep] for boxes, keep in moved],
        box_findings=[f[keep] for f, (_, keep) in zip(batch.box_findings, moved, strict=True)],
        has_boxes=batch.has_boxes,
        absent_known=batch.absent_known,
        index=batch.index,
    )


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Resample films so that a point p of the old film lands at ``matrix @ p`` of the new.

    Args:
        images: (B, 1, S, S).
        matrix: (B, 2, 3) in normalised coordinates, -1 to 1, x then y.
    """
    grid = F.affine_grid(_inverse(matrix), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def move_boxes(boxes: Tensor, matrix: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Boxes around the moved corners, clipped to the film.

    Args:
        boxes: (K, 4) xyxy pixels.
        matrix: (2, 3) as in ``warp``.

    Returns:
        (K, 4) moved boxes and (K,) bool of those still in view.
    """
    if not len(boxes):
        return boxes, torch.ones(0, dtype=torch.bool, device=boxes.device)
    x1, y1, x2, y2 = (boxes / side * 2 - 1).unbind(1)
    corners = torch.stack([torch.stack([x, y], 1) for x in (x1, x2) for y in (y1, y2)], 1)  # (K, 4, 2)
    corners = (corners @ matrix[:, :2].T + matrix[:, 2] + 1) / 2 * side
    whole = torch.cat([corners.amin(1), corners.amax(1)], 1)
    clipped = whole.clamp(0, side)
    size, whole_size = clipped[:, 2:] - clipped[:, :2], whole[:, 2:] - whole[:, :2]
    keep = (size.amin(1) >= MIN_SIDE) & (size.prod(1) >= MIN_SHARE * whole_size.prod(1))
    return clipped, keep


def _random_affine(num: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    def uniform(limit: float) -> Tensor:
        return (torch.rand(num, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(config.rotate))
    size = torch.exp(uniform(math.log1p(config.scale)))
    # Films differ in shape as well as in size; half as much keeps the heart's width a sign of its size.
    shape = torch.exp(uniform(math.log1p(config.scale) / 2))
    cos, sin = angle.cos(), angle.sin()
    rows_x = torch.stack([cos * size * shape, -sin * size, uniform(2 * config.shift)], 1)
    rows_y = torch.stack([sin * size, cos * size / shape, uniform(2 * config.shift)], 1)
    return torch.stack([rows_x, rows_y], 1)


def _inverse(matrix: Tensor) -> Tensor:
    linear = torch.linalg.inv(matrix[:, :, :2])
    return torch.cat([linear, -linear @ matrix[:, :, 2:]], 2)


def _expose(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    shape = (len(images), 1, 1, 1)
    contrast = torch.exp((torch.rand(shape, generator=generator) * 2 - 1) * math.log1p(config.contrast))
    brightness = (torch.rand(shape, generator=generator) * 2 - 1) * config.brightness
    noise = torch.randn(images.shape, generator=generator) * config.noise
    mean = images.mean((2, 3), keepdim=True)
    device = images.device
    exposed = (images - mean) * contrast.to(device) + mean + brightness.to(device) + noise.to(device)
    return exposed.clamp(0, 1)
