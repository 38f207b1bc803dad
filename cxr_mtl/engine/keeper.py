"""What keeps a run, be it training or pretraining: its folder, its checkpoints, and signals that it should stop."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path

from cxr_mtl.config import RunConfig, save_config
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.split import split_hash
from cxr_mtl.data.split_file import save_split
from cxr_mtl.engine.checkpoint import latest_tag
from cxr_mtl.engine.distributed import gather, together
from cxr_mtl.engine.engine import Engine
from cxr_mtl.engine.progress import CHECKPOINTS, Progress, find_checkpoint, save_progress
from cxr_mtl.engine.stop import StopSignals
from cxr_mtl.errors import CheckpointError, ConfigError, Stopped

CONFIG, SPLIT = "config.yaml", "split.csv"


class Keeper:
    """Writes checkpoints of a run, and knows when; every rank has one.

    Attributes:
        stop: signals are noted within its context.
    """

    def __init__(
        self,
        verb: str,
        config: RunConfig,
        manifest: Manifest,
        engine: Engine,
        rank: int,
        world: int,
        *,
        may_differ: Set[str],
    ) -> None:
        """Keep a run of a verb.

        Args:
            verb: ``train`` or ``pretrain``.
            manifest: of all films, with the split.
            may_differ: settings in which a continuation need not agree with the run.
        """
        self._config, self._manifest, self._engine = config, manifest, engine
        self._main, self._may_differ = rank == 0, may_differ
        self._here = Progress(verb, split_hash(manifest), world)
        self._asked = 0
        self.stop = StopSignals()

    def begin(self) -> None:
        """Make the folder of a new run, with its settings and its split.

        Raises:
            ConfigError: it holds a run already.
        """
        folder = self._config.folder
        if latest_tag(folder / CHECKPOINTS) is not None:
            raise ConfigError(
                f"{folder} holds a run already.", hint="Go on with --resume, choose another name, or remove the folder."
            )

        def make() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            save_config(self._config, folder / CONFIG)
            save_split(self._manifest, folder / SPLIT)

        together(make if self._main else lambda: None)

    def restore(self) -> tuple[Path, Progress]:
        """Load the newest whole checkpoint into the engine; gives its folder, and how far it had come.

        Raises:
            CheckpointError: there is none, or it is of another run.
        """
        found = together(
            lambda: find_checkpoint(self._here, self._config, self._may_differ) if self._main else None,
            raised=CheckpointError,
        )
        checkpoint, progress = gather(found)[0]  # what the first rank found, for all of them
        self._engine.load(checkpoint)
        return checkpoint, progress

    def due(self) -> bool:
        """Whether to write a checkpoint after this optimizer step: a signal has asked for it, or its time has come."""
        self._asked, every = self.stop.agreed(), self._config.train.checkpoint_steps
        return bool(self._asked or (every and self._engine.steps % every == 0))

    def save(self, epochs: int, batches: int, extra: Callable[[Path], None], *, best: float = -math.inf) -> None:
        """Write a checkpoint, whole or not at all.

        Args:
            epochs: finished.
            batches: learned of the epoch under way.
            extra: called on the first rank with the checkpoint's folder, to add what the engine does not know of.
            best: score of the bundle that is kept.
        """
        progress = replace(self._here, epochs=epochs, batches=batches, best=best)
        tag = f"epoch{epochs + 1:04d}step{self._engine.steps:06d}" if batches else f"epoch{epochs:04d}"

        def add(checkpoint: Path) -> None:
            extra(checkpoint)
            save_progress(progress, self._config, checkpoint)

        self._engine.save(self._config.folder / CHECKPOINTS, tag, add, main=self._main)

    def leave_if_asked(self) -> None:
        """After a checkpoint that was due.

        Raises:
            Stopped: a signal has asked for it.
        """
        if self._asked:
            what = f"Stopped by {signal.Signals(self._asked).name} after step {self._engine.steps}, which is saved."
            raise Stopped(what, signal=self._asked, hint="Go on with --resume.")
