"""How far a run has come, and whether a checkpoint is of the same run."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_mtl.config import RunConfig
from cxr_mtl.engine.checkpoint import find_whole
from cxr_mtl.errors import CheckpointError

logger = logging.getLogger("cxr_mtl.train")

CHECKPOINTS, PROGRESS_FILE = "checkpoints", "progress.json"
# What may differ between a run and its continuation: how long, how fast, how exact, and where things lie.
MAY_DIFFER = {
    "": {"output"},
    "data": {"manifest", "pack"},
    "train": {"epochs", "lr", "warmup_epochs", "precision", "checkpoint_steps", "keep_checkpoints"}
    | {"channels_last", "checkpoint_activations", "compile"},
}


@dataclass(frozen=True)
class Progress:
    """Attributes:
    epochs: finished.
    best: score of the bundle that is kept.
    split: hash of the split the films were learned from.
    ranks: that shared the optimizer's state.
    batches: learned already of the epoch under way, by each rank.
    """

    epochs: int
    best: float
    split: str
    ranks: int
    batches: int = 0


def save_progress(progress: Progress, config: RunConfig, checkpoint: Path) -> None:
    """Write what ``find_checkpoint`` compares."""
    text = json.dumps(asdict(progress) | {"config": _fixed(config)}, indent=2)
    (checkpoint / PROGRESS_FILE).write_text(text)


def find_checkpoint(config: RunConfig, split: str, ranks: int) -> tuple[Path, Progress]:
    """The newest whole checkpoint of a run, if this is the same run.

    Args:
        config: of the run that is to go on.
        split: hash of its split.
        ranks: that are here now.

    Raises:
        CheckpointError: there is none, or something differs that must not; names it.
    """
    folder = config.folder / CHECKPOINTS
    checkpoint, damages = find_whole(folder)
    for damage in damages:
        logger.warning("%s; going on from %s.", damage, checkpoint.name)
    saved = json.loads((checkpoint / PROGRESS_FILE).read_text())
    then, now = saved.pop("config"), _fixed(config)
    differing = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    progress = Progress(**saved)
    if differing:
        key = differing[0]
        raise CheckpointError(
            f"{checkpoint}: was trained with {key}={then.get(key)}, this run has {now.get(key)}.",
            hint="Set it back, or start a run of another name.",
        )
    if progress.split != split:
        raise CheckpointError(
            f"{checkpoint}: was trained on another split of the films; its weights may have seen the new test films.",
            hint="Restore the manifest's split, or start a run of another name.",
        )
    if progress.ranks != ranks:
        raise CheckpointError(
            f"{checkpoint}: was trained by {progress.ranks} ranks, here are {ranks}.",
            hint=f"Resume with {progress.ranks}.",
        )
    return checkpoint, progress


def _fixed(config: RunConfig) -> dict[str, Any]:
    """Settings by dotted name that a continuation must share."""
    flat: dict[str, Any] = {}
    if config.loss.conditional:  # a share of the epochs, which may not change under it
        flat["train.epochs"] = config.train.epochs
    for section, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            free = MAY_DIFFER.get(section, set())
            flat |= {f"{section}.{key}": inner for key, inner in value.items() if key not in free}
        elif section not in MAY_DIFFER[""]:
            flat[section] = value
    return flat
