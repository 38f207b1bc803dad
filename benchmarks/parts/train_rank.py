"""One rank of benchmarks/train_speed.py: builds the rivals, lets them step in turns, writes what it measured.

python benchmarks/parts/train_rank.py JOB FILE     (RANK, WORLD_SIZE, ... from the environment)
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from cxr_mtl.config import AugmentConfig, RunConfig
from cxr_mtl.data.augment import augment
from cxr_mtl.data.loader import prefetch, train_batches
from cxr_mtl.engine.distributed import device, gather, ranks
from cxr_mtl.model.multitask import normalise
from cxr_mtl.train.study import make_study

sys.path.insert(0, str(Path(__file__).parent))
from train_rivals import Rival, Task, deal, draw_films, make_rivals, make_tasks

WARM_UP, NUM_BATCHES, MIB = 2, 4, 2**20


@dataclass(frozen=True)
class Job:
    """Attributes:
    rivals: names by task, in the order they are built.
    batch: films a rank and step.
    rounds: turns of each rival; ``steps`` a turn.
    manifest: of films to learn from through the loader; None leaves that out.
    """

    encoder: str
    side: int
    batch: int
    rounds: int
    steps: int
    rivals: dict[str, list[str]]
    manifest: str | None = None

    def text(self) -> str:
        return json.dumps(asdict(self))


def measure(job: Job, rank: int, world: int) -> dict[str, Any]:
    """Let all rivals step in turns; every figure is of all ranks."""
    tasks = make_tasks(job.encoder, job.side, job.batch, NUM_BATCHES, rank, world)
    field = []
    for name, rivals in job.rivals.items():
        makers = make_rivals(tasks[name], rivals, world)
        while True:
            before = held()
            rival = next(makers, None)
            if rival is None:
                break
            for batch in tasks[name].batches[:WARM_UP]:
                rival.step(batch)
            rival.still = held() - before
            field.append(rival)
    for turn in range(job.rounds):
        first = turn % len(field)
        for rival in field[first:] + field[:first]:
            take_turn(rival, job.steps)
    waiting = wait_for_films(job, tasks["three heads"], rank, world) if job.manifest else None
    return {
        "rivals": [summary(rival) for rival in field],
        "gflops": {name: forward_gflops(tasks[name], job.batch) for name in job.rivals},
        "waiting": waiting,
    }


def take_turn(rival: Rival, steps: int) -> None:
    settle()
    before = held()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    for step in range(steps):
        rival.step(rival.task.batches[step % NUM_BATCHES])
    settle()
    rival.wall.append((time.perf_counter() - wall) / steps)
    rival.cpu.append((time.process_time() - cpu) / steps)
    if torch.cuda.is_available():
        rival.peak = max(rival.peak, torch.cuda.max_memory_allocated() / MIB - before)


def settle() -> None:
    """Wait for this rank's GPU, and for the other ranks."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.barrier()


def held() -> float:
    return torch.cuda.memory_allocated() / MIB if torch.cuda.is_available() else 0.0


def summary(rival: Rival) -> dict[str, Any]:
    wall, cpu = gather(rival.wall), gather(rival.cpu)
    return {
        "task": rival.task.name,
        "name": rival.name,
        "wall": [max(turn) for turn in zip(*wall, strict=True)],
        "cpu": [sum(turn) / len(turn) for turn in zip(*cpu, strict=True)],
        "still": max(gather(rival.still)),
        "peak": max(gather(rival.peak)),
    }


def forward_gflops(task: Task, batch: int) -> float:
    """Of one film on the way forward; torch counts ConvNeXt's way back as if its depthwise convolutions were dense."""
    net = task.make().to(device())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(*task.arguments(task.batches[0]))
    return float(counter.get_total_flops()) / batch / 1e9


def wait_for_films(job: Job, task: Task, rank: int, world: int) -> dict[str, float]:
    """Learn from real films through pack, loader and augmentation: what share of the time the network has none."""
    config = RunConfig.model_validate(
        {
            "name": "speed",
            "data": {"manifest": job.manifest},
            "model": {"encoder": job.encoder, "image_size": job.side},
        }
    )
    study = make_study(config, main=rank == 0)
    (ours,) = make_rivals(task, ["our engine, ZeRO 0"], world)
    order = train_batches(study.train, batch_size=job.batch, seed=0, epoch=0, rank=rank, world=world)
    boxed = deal(draw_films(job.side, job.batch * world, 1 / 3), 0, job.batch, rank, world)
    waited, steps = [], []
    with closing(prefetch(order, pin=torch.cuda.is_available())) as batches:
        for _ in range(WARM_UP + job.rounds * job.steps):
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            got = time.perf_counter()
            moved = augment(batch, AugmentConfig(), seed=0, epoch=0, device=device())
            # The network and loss of the rivals, which have films of their own; the pixels are the loader's.
            boxed.images = normalise(moved.images.to(device(), non_blocking=True))
            ours.step(boxed)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            waited.append(got - start)
            steps.append(time.perf_counter() - start)
    waited, steps = waited[WARM_UP:], steps[WARM_UP:]
    if not steps:
        return {}
    return {"share": max(gather(sum(waited) / sum(steps))), "images_per_s": job.batch * world / median(steps)}


def main() -> None:
    job, file = Job(**json.loads(sys.argv[1])), Path(sys.argv[2])
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")  # of rivals: their deprecations are no news here
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    with ranks() as (rank, world):
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        found = measure(job, rank, world)
        if rank == 0:
            file.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
