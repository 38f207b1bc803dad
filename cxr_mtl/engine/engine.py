"""The training engine: DeepSpeed's, with checkpoints that are either whole or absent."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cxr_mtl.config import TrainConfig
from cxr_mtl.engine.checkpoint import PART, publish
from cxr_mtl.engine.distributed import device, gather, largest, share_statistics, together
from cxr_mtl.engine.optimize import channels_last, make_groups, prepare
from cxr_mtl.engine.settings import deepspeed_settings
from cxr_mtl.errors import CheckpointError, EngineError

SCALER = "cxr_mtl_scaler"  # in a checkpoint, among DeepSpeed's own names
DIVERGED = (
    "A checkpoint, if there is one, is from before: lower train.lr or use train.precision=fp32, "
    "and go on with --resume."
)


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

        prepare(model, config)
        groups = make_groups(model, config)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99))
        self._engine: Any
        self._schedule: Any
        self._lrs, self._share = [group["lr"] for group in groups], schedule
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
        self._scaler = self._engine.torch_autocast_z0_gradscaler  # of fp16's loss; DeepSpeed's checkpoints leave it out
        self._keep = config.keep_checkpoints
        self._channels_last = config.channels_last
        # With its own variables, not copies: DeepSpeed may lay their values elsewhere.
        self._weights = dict(self.module.state_dict(keep_vars=True))
        self._guard_writing()

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
        return self._engine(*map(self.arrange, args))

    def arrange(self, value: Any) -> Any:
        """What a network is given, in the order of memory that the run file asks for (``train.channels_last``)."""
        return channels_last(value) if self._channels_last else value

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
            yield {name: value.detach() for name, value in self._weights.items()}
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
            yield dict(self.module.state_dict())

    def save(self, folder: Path, tag: str, extra: Callable[[Path], None], *, main: bool) -> None:
        """Write a checkpoint, whole or not at all; ``latest`` names it only once all of it is on disk.

        Args:
            folder: of all checkpoints of the run, on a disk that all nodes share.
            tag: name of this one.
            extra: called on the first rank with the checkpoint's folder, to add what resuming needs besides weights,
                optimizer and schedule.
            main: whether this is the first rank.

        Raises:
            EngineError: on every rank, where the disk is full or fails one of them. The checkpoint before stays.
        """
        part = folder / (tag + PART)
        disk = f"The checkpoint {folder / tag} could not be written"
        try:
            together(lambda: _make_empty(part) if main else None, disk=disk)
            self._problem = ""
            self._written.clear()
            # DeepSpeed's own `latest` is written before the other ranks have finished; a kill between leaves a run
            # that cannot be resumed.
            state = {SCALER: self._scaler.state_dict()} if self._scaler else {}
            self._engine.save_checkpoint(str(folder), tag=part.name, save_latest=False, client_state=state)
            together(self._raise_problem, disk=disk)
            written = [name for names in gather(self._written) for name in names]
            together(lambda: self._publish(part, written, extra) if main else None, disk=disk)
        except EngineError:
            if main:
                shutil.rmtree(part, ignore_errors=True)
            raise

    def load(self, checkpoint: Path) -> None:
        """Load weights, optimizer and schedule; the peak learning rate stays this run's own.

        Raises:
            CheckpointError: the checkpoint is not whole or of another network.
        """
        try:
            path, state = self._engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
        except (RuntimeError, AssertionError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint}: does not fit this run: {_reason(error)}",
                hint="Resume with the configuration it was started with.",
            ) from None
        if path is None:
            raise CheckpointError(f"{checkpoint}: the checkpoint is incomplete.")
        if self._scaler and SCALER in state:  # the precision may have changed
            self._scaler.load_state_dict(state[SCALER])
        self._schedule.base_lrs = list(self._lrs)
        for group, lr in zip(self._engine.optimizer.param_groups, self._lrs, strict=True):
            group["initial_lr"] = lr
            group["lr"] = lr * self._share(self._schedule.last_epoch)

    def _publish(self, part: Path, written: list[str], extra: Callable[[Path], None]) -> None:
        unseen = [name for name in written if not (part / name).is_file()]
        if unseen:
            raise EngineError(
                f"{part / unseen[0]} was written by another node and is not seen by the first.",
                hint="All nodes must share the disk of the run's folder (output).",
            )
        extra(part)
        publish(part, self.steps, self._keep)

    def _guard_writing(self) -> None:
        """Note what cannot be written instead of raising it there and then.

        DeepSpeed's ranks wait for each other after writing; one that had left would keep the others waiting. torch's
        writer of zip files says RuntimeError where a disk is full.
        """
        self._problem = ""
        self._written: list[str] = []
        writer, plain, copy_script = (
            self._engine.checkpoint_engine,
            self._engine.checkpoint_engine.save,
            self._engine._copy_recovery_script,
        )

        def noted(write: Callable[..., None]) -> Callable[..., None]:
            def wrapped(*args: Any, **named: Any) -> None:
                try:
                    write(*args, **named)
                except (OSError, RuntimeError) as error:
                    self._problem = self._problem or _reason(error)

            return wrapped

        def save(state_dict: Any, path: str) -> None:
            plain(state_dict, path)
            self._written.append(Path(path).name)

        writer.save, self._engine._copy_recovery_script = noted(save), noted(copy_script)

    def _raise_problem(self) -> None:
        if self._problem:
            raise OSError(self._problem)


def check_finite(what: str, tensors: Iterable[Tensor], step: int) -> None:
    """Before something is judged or saved: all of it are numbers, on every rank.

    Args:
        what: names one of the numbers, to begin a sentence with.
        tensors: of one device; whole numbers, such as counts, are passed over.
        step: optimizer steps taken.

    Raises:
        EngineError: on every rank, where one of them has what is no number.
    """
    # All at once: a network has hundreds of small tensors, and each answer makes a GPU wait.
    norms = torch._foreach_norm([value for value in tensors if value.is_floating_point()])
    if largest(int(not torch.stack(norms).isfinite().all())):
        raise EngineError(f"{what} is no longer a number (step {step}).", hint=DIVERGED).on_all_ranks()


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
