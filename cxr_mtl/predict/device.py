"""What computes: the CPU, or which GPU, and in what arithmetic."""

from __future__ import annotations

import logging

import torch

_logger = logging.getLogger(__name__)


def pick_device(name: str | None) -> torch.device:
    """The device of a name, ``cpu`` or ``cuda``; None is the GPU where there is one.

    Where it is a GPU, TF32 is off in this process from then on: by default convolutions round their factors to it, and
    float32 is what a model was evaluated in.
    """
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


def device_of(gpu: int | str | None) -> str:
    """The name of what a server calls a GPU by its number, or by None for none; the CPU where torch has no CUDA."""
    if gpu is None:
        return "cpu"
    if not torch.cuda.is_available():
        _logger.warning("There is a GPU, and this torch cannot use it: the CPU answers. Is it torch for CUDA?")
        return "cpu"
    return f"cuda:{gpu}"
