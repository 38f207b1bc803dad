"""What a pretraining run leaves besides checkpoints, and what it may change when it goes on."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from cxr_mtl.config import ModelConfig
from cxr_mtl.engine import progress

LOG, ENCODER = "log.jsonl", "encoder.safetensors"
# What may differ between a run and its continuation: what that of any run may, and what is watched.
MAY_DIFFER = progress.MAY_DIFFER | {
    "pretrain.probe", "pretrain.probe_every", "pretrain.neighbours", "pretrain.collapse_after",
    "pretrain.min_information", "pretrain.min_rank",
}  # fmt: skip


def save_encoder(weights: dict[str, Tensor], model: ModelConfig, epochs: int, path: Path) -> None:
    """Write the file that ``model.weights`` takes, whole or not at all.

    Args:
        weights: of the encoder's timm network.
        epochs: finished.
    """
    about = {
        "format": "pt",
        "method": "dino",
        "encoder": model.encoder,
        "encoder_args": json.dumps(model.encoder_args),
        "image_size": str(model.image_size),
        "epochs": str(epochs),
    }
    draft = path.with_suffix(".part")
    try:
        save_file({name: value.contiguous().cpu() for name, value in weights.items()}, draft, about)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # half of one, where the disk is full
