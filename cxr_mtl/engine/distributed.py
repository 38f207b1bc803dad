"""Ranks: who am I, how many are we, and sums over all of us.

Works under DeepSpeed's launcher and torchrun, which set the environment, and alone.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextmanager
def ranks() -> Iterator[tuple[int, int]]:
    """Join the other ranks for as long as the context lasts; gives (rank, world size)."""
    # DeepSpeed probes for accelerators on import and logs what it did not find; say it instead.
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    alone = "RANK" not in os.environ
    if alone:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    # Ranks wait for the first while it decodes a dataset's films, which takes longer than any collective's default.
    patience = timedelta(hours=12)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=patience)
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        # Without it gloo's threads sometimes abort the interpreter at exit. DeepSpeed remembers groups and must forget
        # them: a second run in this process would be given one that is no more.
        deepspeed = sys.modules.get("deepspeed.comm.comm")
        (deepspeed if deepspeed and deepspeed.cdb else dist).destroy_process_group()
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


def gather(value: Any) -> list[Any]:
    """Every rank's object, in order of rank, on every rank."""
    out: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(out, value)
    return out


def barrier() -> None:
    """Wait for all ranks."""
    dist.barrier()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return cast("int", sock.getsockname()[1])
