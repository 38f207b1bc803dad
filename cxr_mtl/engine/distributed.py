"""Ranks: who am I, how many are we, and sums over all of us.

Works under DeepSpeed's launcher and torchrun, which set the environment, and alone.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn

from cxr_mtl.engine.memory import keep_memory
from cxr_mtl.errors import CxrError, EngineError

Answer = TypeVar("Answer")

# How long ranks wait for each other before they take one for lost: longer than any step, compilation or validation's
# end takes. While one of them decodes a dataset's films, the others wait with more patience.
STEP, DECODING = timedelta(minutes=30), timedelta(hours=12)
_groups: dict[str, Any] = {}  # for what lies in main memory, whatever carries the gradients
# What gloo and NCCL say in a plain RuntimeError when a neighbour's process has ended or does not answer.
_LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")


@contextmanager
def ranks() -> Iterator[tuple[int, int]]:
    """Join the other ranks for as long as the context lasts; gives (rank, world size)."""
    # DeepSpeed probes for accelerators on import and logs what it did not find; say it instead.
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        keep_memory()
    else:
        # DeepSpeed's barriers are on this rank's own GPU, which it has set; torch tells at each that it guesses so.
        warnings.filterwarnings("ignore", message=r"barrier\(\): using the device under current context")
    alone = "RANK" not in os.environ
    if alone:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=STEP)
    try:
        _groups.update(
            {name: dist.new_group(backend="gloo", timeout=t) for name, t in (("step", STEP), ("patient", DECODING))}
        )
        with _lost_rank_is_one_line():
            yield dist.get_rank(), dist.get_world_size()
    finally:
        # Without it gloo's threads sometimes abort the interpreter at exit. DeepSpeed, where it ran, remembers groups,
        # and would give a second run in this process one that is no more.
        deepspeed = sys.modules.get("deepspeed.comm.comm")
        (deepspeed if deepspeed and deepspeed.cdb else dist).destroy_process_group()
        _groups.clear()
        if alone:
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(name, None)


def device() -> torch.device:
    """This rank's own."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank())
    return torch.device("cpu")


def local_rank() -> int:
    """This rank's number on its own node."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, without gradient."""
    value = value.detach().clone().float()
    dist.all_reduce(value)
    return value / dist.get_world_size()


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Give every rank the mean over ranks of what BatchNorm has seen.

    Each rank normalises by its own films; without this each would validate with other statistics, and the first rank's
    alone would be kept.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    values = [v for norm in norms for v in (norm.running_mean, norm.running_var) if v is not None]
    if not values or dist.get_world_size() == 1:
        return
    mean = mean_over_ranks(torch.cat(values))
    torch._foreach_copy_(values, torch.split(mean, [len(v) for v in values]))


def gather(value: Any, *, patient: bool = False) -> list[Any]:
    """Every rank's object, in order of rank, on every rank."""
    out: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(out, value, group=_groups["patient" if patient else "step"])
    return out


def barrier(*, patient: bool = False) -> None:
    """Wait for all ranks."""
    dist.barrier(group=_groups["patient" if patient else "step"])


def largest(value: int) -> int:
    """The largest over all ranks. Ranks wait for each other, but no GPU waits for its rank."""
    if dist.get_world_size() == 1:
        return value
    here = torch.tensor(value)
    dist.all_reduce(here, dist.ReduceOp.MAX, group=_groups["step"])
    return int(here)


def together(
    work: Callable[[], Answer],
    *,
    disk: str = "The run's folder cannot be written",
    raised: type[CxrError] = EngineError,
    patient: bool = False,
) -> Answer:
    """Do something on every rank; what goes wrong on one is raised on all, or the others would wait for it for ever.

    Args:
        disk: what to say of a disk that fails.
        raised: of which kind the error is to be.
        patient: whether it may take hours.
    """
    problem, answer = None, None
    try:
        answer = work()
    except CxrError as error:
        problem = error.message, error.hint
    except (OSError, SafetensorError) as error:
        problem = f"{disk}: {getattr(error, 'strerror', None) or error}.", "Check its disk."
    problems = [found for found in gather(problem, patient=patient) if found]
    if problems:
        raise raised(problems[0][0], hint=problems[0][1]).on_all_ranks()
    return cast("Answer", answer)


@contextmanager
def _lost_rank_is_one_line() -> Iterator[None]:
    """The launcher says how a rank ended; the others, whose sums stay incomplete, say what became of them."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in _LOST):
            raise
        raise EngineError(
            "Another rank has gone, or does not answer any more.",
            hint="The launcher or the other rank's line says why; go on with --resume.",
        ) from error


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return cast("int", sock.getsockname()[1])
