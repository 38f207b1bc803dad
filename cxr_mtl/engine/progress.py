"""How far a run has come, and whether a checkpoint is of the same run."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_mtl.config import RunConfig
from cxr_mtl.engine.checkpoint import find_whole
from cxr_mtl.errors import CheckpointError

logger = logging.getLogger("cxr_mtl.engine")

CHECKPOINTS, PROGRESS_FILE = "checkpoints", "progress.json"
# What may differ between a run and its continuation: how long, how fast, how exact, and where things lie.
MAY_DIFFER = frozenset(
    {
        "output", "data.manifest", "data.pack", "train.epochs", "train.lr", "train.warmup_epochs", "train.precision",
        "train.checkpoint_steps", "train.keep_checkpoints", "train.channels_last", "train.checkpoint_activations",
        "train.compile",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """Attributes:
    verb: ``train`` or ``pretrain``.
    split: hash of the split the films were learned from.
    ranks: that shared the optimizer's state.
    epochs: finished.
    batches: learned already of the epoch under way, by each rank.
    best: score of the bundle that is kept.
    """

    verb: str
    split: str
    ranks: int
    epochs: int = 0
    batches: int = 0
    best: float = -math.inf


def save_progress(progress: Progress, config: RunConfig, checkpoint: Path) -> None:
    """Write what ``find_checkpoint`` compares."""
    text = json.dumps(asdict(progress) | {"config": config.model_dump(mode="json")}, indent=2)
    (checkpoint / PROGRESS_FILE).write_text(text)


def find_checkpoint(here: Progress, config: RunConfig, may_differ: Set[str]) -> tuple[Path, Progress]:
    """The newest whole checkpoint of a run, if this is the same run.

    Args:
        here: what is to go on: its verb, split and ranks.
        config: of the run that is to go on.
        may_differ: settings by dotted name, or whole sections.

    Raises:
        CheckpointError: there is none, or something differs that must not; names it.
    """
    checkpoint, damages = find_whole(config.folder / CHECKPOINTS)
    for damage in damages:
        logger.warning("%s; going on from %s.", damage, checkpoint.name)
    progress, settings = _read(checkpoint)
    then, now = (_fixed(tree, may_differ) for tree in (settings, config.model_dump(mode="json")))
    if progress.verb != here.verb:
        raise CheckpointError(
            f"{checkpoint}: was written by `cxr-mtl {progress.verb}`.",
            hint="Start without --resume under another name.",
        )
    differing = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    if differing:
        key = differing[0]
        raise CheckpointError(
            f"{checkpoint}: was {here.verb}ed with {key}={then.get(key)}, this run has {now.get(key)}.",
            hint="Set it back, or start a run of another name.",
        )
    if progress.split != here.split:
        raise CheckpointError(
            f"{checkpoint}: was {here.verb}ed on another split of the films; its weights may have seen the new test "
            "films.",
            hint="Restore the manifest's split, or start a run of another name.",
        )
    if progress.ranks != here.ranks:
        raise CheckpointError(
            f"{checkpoint}: was {here.verb}ed by {progress.ranks} ranks, here are {here.ranks}.",
            hint=f"Resume with {progress.ranks}.",
        )
    return checkpoint, progress


def _read(checkpoint: Path) -> tuple[Progress, dict[str, Any]]:
    try:
        saved = json.loads((checkpoint / PROGRESS_FILE).read_text())
        settings = saved.pop("config")
        return Progress(**saved), settings
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{checkpoint}: was written by another version of cxr-mtl.",
            hint="Resume with that version, or start a run of another name.",
        ) from None


def _fixed(tree: dict[str, Any], may_differ: Set[str], above: str = "") -> dict[str, Any]:
    """Settings by dotted name that a continuation must share."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        if name in may_differ:
            continue
        flat |= _fixed(value, may_differ, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
