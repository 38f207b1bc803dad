"""Augmentation of whole batches, films and boxes by one matrix.  B batch, S input side, K boxes.

Two roads give the same pictures: on a GPU the whole batch at once, on a CPU film by film in OpenCV, which moves bytes
ten times faster than torch moves floats there (``benchmarks/data.py``). Both start from and end in bytes, so what is
trained on is rounded as what is predicted on.

No film is mirrored unless a run file asks for it: the heart is on the left. Nothing is erased or cropped on purpose
either: the label of a film would outlive the finding.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mtl.config import AugmentConfig
from cxr_mtl.data.chance import AUGMENT, film_numbers
from cxr_mtl.data.change import Change, change_on_cpu, change_on_device
from cxr_mtl.types import Batch

MIN_SIDE = 2.0  # pixels; a box that augmentation cuts down to less is left out
MIN_SHARE = 0.25  # of a box's area that must stay in view for it to stay a box

_DRAWS = 11  # random numbers a film


def augment(batch: Batch, config: AugmentConfig, *, seed: int, epoch: int, device: torch.device | None = None) -> Batch:
    """Move, turn and stretch films with their boxes, and change their exposure.

    What happens to a film follows from seed, epoch and its ``Batch.draw`` alone: not from its neighbours, so one rank
    and several see the same films.

    Args:
        batch: images (B, 1, S, S) uint8; boxes on the CPU.
        config: strengths.
        seed: of the run.
        epoch: counted from 0.
        device: where the films are wanted, and augmented; None leaves them where they are.

    Returns:
        a batch with images (B, 1, S, S) uint8 on the device, and boxes in the new frame, still on the CPU.
    """
    side = batch.images.shape[-1]
    change = draw(batch.draw.numpy(), config, seed=seed, epoch=epoch, side=side)
    images = batch.images if device is None else batch.images.to(device, non_blocking=True)
    changed = change_on_cpu(images, change) if images.device.type == "cpu" else change_on_device(images, change)
    boxes, findings = _move_all(batch, change.matrix)
    return replace(batch, images=changed, boxes=boxes, box_findings=findings)


def draw(rows: NDArray[np.int64], config: AugmentConfig, *, seed: int, epoch: int, side: int) -> Change:
    """What is to happen to some films in an epoch.

    Args:
        rows: (B,) as ``Batch.draw``.
        side: S.
    """
    numbers = film_numbers(rows, _DRAWS, seed=seed, epoch=epoch, stream=AUGMENT)
    unit = torch.from_numpy(numbers).float()  # (B, _DRAWS) 0 to 1
    either_way = unit * 2 - 1
    angle = either_way[:, 0] * math.radians(config.rotate)
    size = torch.exp(either_way[:, 1] * math.log1p(config.scale))
    # Films differ in shape as well as in size; half as much keeps the heart's width a sign of its size.
    shape = torch.exp(either_way[:, 2] * math.log1p(config.scale) / 2)
    cos, sin = angle.cos(), angle.sin()
    shift = either_way[:, 3:5] * 2 * config.shift
    side_of_x = torch.where(unit[:, 10:] < config.mirror, -1.0, 1.0)  # (B, 1)
    return Change(
        matrix=torch.stack(
            [
                torch.stack([cos * size * shape, -sin * size, shift[:, 0]], 1) * side_of_x,
                torch.stack([sin * size, cos * size / shape, shift[:, 1]], 1),
            ],
            1,
        ),
        contrast=torch.exp(either_way[:, 5] * math.log1p(config.contrast)),
        brightness=either_way[:, 6] * config.brightness,
        gamma=torch.exp(either_way[:, 7] * math.log1p(config.gamma)),
        noise=config.noise,
        noise_at=(unit[:, 8:10] * (side // 2 + 1)).long(),
    )


def move_boxes(boxes: Tensor, matrix: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Boxes around the moved corners, clipped to the film.

    Args:
        boxes: (K, 4) xyxy pixels.
        matrix: (2, 3) as in ``Change``, or (K, 2, 3), one for each box.

    Returns:
        (K, 4) moved boxes and (K,) bool of those still in view.
    """
    x1, y1, x2, y2 = (boxes / side * 2 - 1).unbind(1)
    corners = torch.stack([torch.stack([x, y], 1) for x in (x1, x2) for y in (y1, y2)], 1)  # (K, 4, 2)
    corners = (corners @ matrix[..., :2].mT + matrix[..., None, :, 2] + 1) / 2 * side
    whole = torch.cat([corners.amin(1), corners.amax(1)], 1)
    clipped = whole.clamp(0, side)
    size, whole_size = clipped[:, 2:] - clipped[:, :2], whole[:, 2:] - whole[:, :2]
    keep = (size.amin(1) >= MIN_SIDE) & (size.prod(1) >= MIN_SHARE * whole_size.prod(1))
    return clipped, keep


def _move_all(batch: Batch, matrix: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The boxes of all films in one go: most films have none, and small operations cost more than large ones."""
    counts = [len(boxes) for boxes in batch.boxes]
    if not any(counts):
        return batch.boxes, batch.box_findings
    film = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    moved, keep = move_boxes(torch.cat(batch.boxes), matrix[film], batch.images.shape[-1])
    left = torch.bincount(film[keep], minlength=len(counts)).tolist()
    return list(torch.split(moved[keep], left)), list(torch.split(torch.cat(batch.box_findings)[keep], left))
