"""What a pretraining run leaves: its log, its checkpoints' settings, and the encoder."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from cxr_mtl.config import ModelConfig, RunConfig
from cxr_mtl.engine.checkpoint import find_whole
from cxr_mtl.errors import CheckpointError

logger = logging.getLogger("cxr_mtl.pretrain")

LOG, CONFIG, CHECKPOINTS = "log.jsonl", "config.yaml", "checkpoints"
ENCODER = "encoder.safetensors"
SETTINGS = "settings.json"
# What may differ between a run and its continuation: how long, how fast, how exact, what is watched, where things lie.
MAY_DIFFER = frozenset(
    {
        "output", "data.manifest", "data.pack", "train.epochs", "train.lr", "train.warmup_epochs", "train.precision",
        "train.keep_checkpoints", "pretrain.probe", "pretrain.probe_every", "pretrain.neighbours",
        "pretrain.collapse_after", "pretrain.min_information", "pretrain.min_rank",
    }
)  # fmt: skip


class Log:
    """One JSON object a line: looks, steps and epochs. A figure that is no number is null."""

    def __init__(self, path: Path, epochs: int) -> None:
        """Begin, or go on after some finished epochs: what was written of later ones is about to be written again."""
        self._path = path
        kept = []
        for line in path.read_text().splitlines() if epochs else ():
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the line that a kill cut short, and nothing is after it
            if entry["epoch"] <= epochs:
                kept.append(line)
        path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, event: str, epoch: int, **figures: float) -> None:
        """Append a line.

        Args:
            event: ``look``, ``step`` or ``epoch``.
            epoch: counted from 1; 0 before the first.
        """
        stated = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"event": event, "epoch": epoch} | stated) + "\n")


def save_settings(config: RunConfig, split: str, ranks: int, epochs: int, checkpoint: Path) -> None:
    """Write what ``find_checkpoint`` compares, and how many epochs are finished."""
    (checkpoint / SETTINGS).write_text(json.dumps({"epochs": epochs, "fixed": _fixed(config, split, ranks)}, indent=2))


def find_checkpoint(config: RunConfig, split: str, ranks: int) -> tuple[Path, int]:
    """The newest whole checkpoint of a run and its finished epochs, if this is the same run.

    Args:
        config: of the run that is to go on.
        split: hash of the films' split.
        ranks: that are here now.

    Raises:
        CheckpointError: there is none, or something differs that must not; names it.
    """
    checkpoint, damages = find_whole(config.folder / CHECKPOINTS)
    for damage in damages:
        logger.warning("%s; going on from %s.", damage, checkpoint.name)
    if not (checkpoint / SETTINGS).is_file():
        raise CheckpointError(f"{checkpoint}: is of no pretraining.", hint="Start without --resume.")
    saved = json.loads((checkpoint / SETTINGS).read_text())
    then, now = saved["fixed"], _fixed(config, split, ranks)
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            raise CheckpointError(
                f"{checkpoint}: was pretrained with {key}={then.get(key)}, this run has {now.get(key)}.",
                hint="Set it back, or start a run of another name.",
            )
    return checkpoint, int(saved["epochs"])


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
    save_file({name: value.contiguous().cpu() for name, value in weights.items()}, draft, about)
    draft.replace(path)


def _fixed(config: RunConfig, split: str, ranks: int) -> dict[str, Any]:
    """Settings by dotted name that a continuation must share."""
    flat: dict[str, Any] = {"split": split, "ranks": ranks}

    def add(tree: dict[str, Any], above: str) -> None:
        for key, value in tree.items():
            name = f"{above}{key}"
            if isinstance(value, dict):
                add(value, f"{name}.")
            elif name not in MAY_DIFFER:
                flat[name] = value

    add(config.model_dump(mode="json"), "")
    return flat
