"""The training engine: DeepSpeed's, with checkpoints that are either whole or absent."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cxr_mtl.config import TrainConfig
from cxr_mtl.engine.distributed import barrier, device, share_statistics
from cxr_mtl.engine.settings import deepspeed_settings
from cxr_mtl.errors import CheckpointError

LATEST = "latest"


class Engine:
    """Forward, backward, step, save, load.

    Attributes:
        module: the network under DeepSpeed's wrapper.
        steps: optimizer steps taken.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        world: int,
        schedule: Callable[[int], float],
    ) -> None:
        """Wrap a model.

        Args:
            model: on the CPU; it is moved to this rank's device.
            config: the ``train`` section.
            world: number of ranks.
            schedule: learning rate as a share of its peak, by optimizer step.
        """
        # Both report at every start what is no news: that there is no CUDA, and which operators were built.
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        # DeepSpeed 0.19 calls what torch 2.14 has renamed; a user can do nothing about it, at every step of every rank.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        # torch looks for ninja, which builds DeepSpeed's operator, on PATH; it lies beside this very python.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        import deepspeed  # seconds to import, and only training pays

        optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.99))
        self._engine: Any
        self._schedule: Any
        self._lr, self._share = config.lr, schedule
        with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints; what goes wrong it raises
            self._engine, _, _, self._schedule = deepspeed.initialize(
                model=model.to(device()),
                optimizer=optimizer,
                # A factory of torch's own kind: DeepSpeed steps it once an optimizer step. timm's schedulers must not
                # be handed over, since their step() takes an epoch.
                lr_scheduler=lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, schedule),
                config=deepspeed_settings(config, world),
                dist_init_required=False,
            )
        self._stage = config.zero_stage
        self._keep = config.keep_checkpoints

    @property
    def module(self) -> nn.Module:
        net: nn.Module = self._engine.module
        return net

    @property
    def steps(self) -> int:
        return int(self._engine.global_steps)

    @property
    def lr(self) -> float:
        return float(self._engine.get_lr()[0])

    def __call__(self, *args: Any) -> Any:
        return self._engine(*args)

    def backward_and_step(self, loss: Tensor) -> bool:
        """Accumulate a loss; True where this completed an optimizer step."""
        before = self.steps
        self._engine.backward(loss)
        self._engine.step()
        stepped = self.steps > before
        if stepped:
            share_statistics(self.module)
        return stepped

    def train_mode(self) -> None:
        self._engine.train()

    @contextlib.contextmanager
    def whole_weights(self) -> Iterator[dict[str, Tensor]]:
        """All weights by name, on every rank, whatever the ZeRO stage; valid inside the context only."""
        if self._stage < 3:
            yield dict(self.module.state_dict())
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
            yield dict(self.module.state_dict())

    def save(self, folder: Path, tag: str, extra: Callable[[Path], None], *, main: bool) -> None:
        """Write a checkpoint; ``latest`` names it only once all of it is on disk.

        Args:
            folder: of all checkpoints of the run.
            tag: name of this one.
            extra: called on the first rank with the checkpoint's folder, to add what resuming needs besides weights,
                optimizer and schedule.
            main: whether this is the first rank.
        """
        # DeepSpeed's own `latest` is written before the other ranks have finished; a kill between leaves a run that
        # cannot be resumed. Hence save_latest=False, a barrier, fsync and a rename.
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
        if main:
            extra(folder / tag)
            for file in (folder / tag).rglob("*"):
                if file.is_file():
                    _fsync(file)
            part = folder / (LATEST + ".part")
            part.write_text(tag)
            _fsync(part)
            part.replace(folder / LATEST)
            self._drop_old(folder, tag)
        barrier()

    def load(self, checkpoint: Path) -> None:
        """Load weights, optimizer and schedule; the peak learning rate stays this run's own.

        Raises:
            CheckpointError: the checkpoint is not whole or of another network.
        """
        try:
            path, _ = self._engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
        except (RuntimeError, AssertionError, OSError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"{checkpoint}: does not fit this run: {reason}",
                hint="Resume with the configuration it was started with.",
            ) from None
        if path is None:
            raise CheckpointError(f"{checkpoint}: the checkpoint is incomplete.")
        self._schedule.base_lrs = [self._lr for _ in self._schedule.base_lrs]
        for group in self._engine.optimizer.param_groups:
            group["initial_lr"] = self._lr
            group["lr"] = self._lr * self._share(self._schedule.last_epoch)

    def _drop_old(self, folder: Path, tag: str) -> None:
        others = sorted((p for p in folder.iterdir() if p.is_dir() and p.name != tag), key=lambda p: p.stat().st_mtime)
        for old in others[: max(0, len(others) + 1 - self._keep)]:
            shutil.rmtree(old)


def latest_tag(folder: Path) -> str | None:
    """Name of the newest whole checkpoint of a run, if there is one."""
    file = folder / LATEST
    return file.read_text().strip() if file.is_file() else None


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; norms and biases do not."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _fsync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
