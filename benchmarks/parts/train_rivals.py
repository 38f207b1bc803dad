"""The rivals of benchmarks/train_speed.py: one training step, by our engine and by others.

All get the same batches from memory, AdamW with the same settings, the gradient's norm cut at 1, and bf16 autocast of
the network alone, not of the loss. What a library does by default stays: nobody is tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cxr_mtl.config import LossConfig, ModelConfig, TrainConfig
from cxr_mtl.engine.distributed import device
from cxr_mtl.engine.engine import Engine
from cxr_mtl.model.multitask import make_model, normalise
from cxr_mtl.ontology import load_ontology
from cxr_mtl.train.objective import Objective
from cxr_mtl.types import Batch

LR, DECAY, CLIP = 1e-4, 0.05, 1.0
# Share of NIH's 112,120 films with each label (Wang et al., 2017); groups follow from those below them.
PREVALENCE = {
    "No Finding": 0.538, "Infiltration": 0.177, "Effusion": 0.119, "Atelectasis": 0.103, "Nodule": 0.056, "Mass": 0.052,
    "Pneumothorax": 0.047, "Consolidation": 0.042, "Pleural Thickening": 0.030, "Cardiomegaly": 0.025,
    "Emphysema": 0.022, "Edema": 0.021, "Fibrosis": 0.015, "Pneumonia": 0.013, "Hernia": 0.002,
}  # fmt: skip
BOX_FINDINGS = (
    "Atelectasis", "Infiltration", "Pneumonia", "Nodule", "Mass", "Effusion", "Pneumothorax", "Cardiomegaly",
)  # fmt: skip
BOXES = (0.9, 0.08, 0.02)  # share of NIH's boxed films with one, two and three boxes
SIZES = (0.06, 0.55)  # of a box's sides, as shares of the film's


@dataclass(frozen=True)
class Task:
    """What is learned; ``loss`` takes a network's answer to ``arguments`` of a batch."""

    name: str
    make: Callable[[], nn.Module]
    arguments: Callable[[Batch], tuple[Tensor, ...]]
    loss: Callable[[Any, Batch], Tensor]
    batches: list[Batch]


@dataclass
class Rival:
    """One way to learn a task; ``step`` takes a batch all the way."""

    task: Task
    name: str
    step: Callable[[Batch], None]
    wall: list[float] = field(default_factory=list)  # s a step
    cpu: list[float] = field(default_factory=list)
    still: float = 0.0  # MiB of the GPU that weights, gradients and optimizer hold
    peak: float = 0.0  # MiB more in the middle of a step


class OneHead(nn.Module):
    """The same encoder with one linear layer on the mean of its last map."""

    def __init__(self, encoder: Any, num_findings: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(encoder.channels[-1], num_findings)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.encoder(images)[-1].mean((2, 3)))
        return logits


def make_tasks(encoder: str, side: int, batch: int, num_batches: int, rank: int, world: int) -> dict[str, Task]:
    """Three heads on films of which a third has boxes, the same where every film has some, and one head."""
    config = ModelConfig(encoder=encoder, image_size=side)
    ontology = load_ontology("nih14")
    num = len(ontology.names)

    def three(name: str, share: float) -> Task:
        films = draw_films(side, batch * world * num_batches, share)
        objective = Objective(
            LossConfig(), ontology.parents, len(BOX_FINDINGS), side, films.labels.numpy(), films.has_boxes.numpy()
        ).to(device())
        return Task(
            name,
            lambda: make_model(config, num, len(BOX_FINDINGS)),
            lambda b: (b.images, objective.box_rows(b)),
            lambda outputs, b: objective(outputs, b)["total"],
            [deal(films, step, batch, rank, world) for step in range(num_batches)],
        )

    heads = three("three heads", 1 / 3)
    one = Task(
        "one linear head",
        lambda: OneHead(make_model(config, num, 0).encoder, num),
        lambda b: (b.images,),
        lambda logits, b: F.binary_cross_entropy_with_logits(logits.float(), b.labels),
        heads.batches,
    )
    return {task.name: task for task in (heads, three("three heads, every film boxed", 1.0), one)}


def draw_films(side: int, num: int, boxed: float) -> Batch:
    """Noise with labels and boxes in NIH's proportions; the first film is boxed, and then a share of all."""
    rng, ontology = np.random.default_rng(0), load_ontology("nih14")
    labels = np.stack([rng.random(num) < PREVALENCE.get(name, 0) for name in ontology.names], 1)
    has_boxes = np.arange(num) % round(1 / boxed) == 0
    boxes, findings = [], []
    for film in range(num):
        count = int(rng.choice([1, 2, 3], p=BOXES)) if has_boxes[film] else 0
        size = rng.uniform(*SIZES, (count, 2)) * side
        corner = rng.random((count, 2)) * (side - size)
        drawn = rng.integers(len(BOX_FINDINGS), size=count)
        labels[film, [ontology.index(BOX_FINDINGS[d]) for d in drawn]] = True
        boxes.append(torch.from_numpy(np.concatenate([corner, corner + size], 1).astype(np.float32)))
        findings.append(torch.from_numpy(drawn))
    for node in reversed(range(len(ontology.names))):
        for parent in ontology.parents[node]:
            labels[:, parent] |= labels[:, node]
    known = ~labels[:, [ontology.index(name) for name in BOX_FINDINGS]]
    for film, drawn in enumerate(findings):
        known[film, drawn.numpy()] = True
    images = torch.from_numpy(rng.integers(0, 256, (num, 1, side, side), dtype=np.uint8))
    tensors = torch.from_numpy(labels.astype(np.float32)), torch.from_numpy(has_boxes), torch.from_numpy(known)
    return Batch(images, tensors[0], boxes, findings, *tensors[1:], *[torch.arange(num)] * 3)


def deal(films: Batch, step: int, batch: int, rank: int, world: int) -> Batch:
    """One rank's films of a step, ready on its device."""
    rows = list(range(step * batch * world, (step + 1) * batch * world))
    mine, to = rows[rank::world], device()
    return Batch(
        normalise(films.images[mine]).to(to),
        films.labels[mine].to(to),
        [films.boxes[r].to(to) for r in mine],
        [films.box_findings[r].to(to) for r in mine],
        films.has_boxes[mine].to(to),
        films.absent_known[mine].to(to),
        films.index[mine],
        films.draw[mine],
        films.step[rows],
    )


def make_rivals(task: Task, names: list[str], world: int) -> Iterator[Rival]:
    """The rivals that are named and installed, each with weights of its own."""
    for name in names:
        torch.manual_seed(0)
        if name.startswith("our engine"):
            yield Rival(task, name, engine(task, int(name[-1]), world))
        elif name in MAKERS and installed(name):
            yield Rival(task, name, MAKERS[name](task, world))


def engine(task: Task, stage: int, world: int) -> Callable[[Batch], None]:
    size = len(task.batches[0].index) * world
    train = TrainConfig(batch_size=size, lr=LR, weight_decay=DECAY, clip=CLIP, precision="bf16", zero_stage=stage)
    ours = Engine(task.make(), train, world, lambda _: 1.0)
    ours.train_mode()

    def step(batch: Batch) -> None:
        ours.backward_and_step(task.loss(ours(*task.arguments(batch)), batch))

    return step


def plain(task: Task, world: int) -> Callable[[Batch], None]:
    to = device()
    net = DistributedDataParallel(task.make().to(to), device_ids=[to] if to.type == "cuda" else None)
    optimizer = adamw(net)

    def step(batch: Batch) -> None:
        with torch.autocast(to.type, torch.bfloat16):
            answer = net(*task.arguments(batch))
        task.loss(answer, batch).backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def accelerate(task: Task, world: int) -> Callable[[Batch], None]:
    from accelerate import Accelerator

    ours = Accelerator(mixed_precision="bf16", cpu=device().type == "cpu")
    made = task.make()
    net, optimizer = ours.prepare(made, adamw(made))

    def step(batch: Batch) -> None:
        ours.backward(task.loss(net(*task.arguments(batch)), batch))
        ours.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def fabric(task: Task, world: int) -> Callable[[Batch], None]:
    from lightning.fabric import Fabric

    ours = Fabric(accelerator=device().type, devices=world, strategy="ddp", precision="bf16-mixed")
    ours.launch()
    made = task.make()
    net, optimizer = ours.setup(made, adamw(made))

    def step(batch: Batch) -> None:
        ours.backward(task.loss(net(*task.arguments(batch)), batch))
        ours.clip_gradients(net, optimizer, max_norm=CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    """The engine's: weights decay, norms and biases do not."""
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99))


MAKERS = {"torch DDP": plain, "accelerate": accelerate, "Lightning Fabric": fabric}
PACKAGES = {"torch DDP": "torch", "accelerate": "accelerate", "Lightning Fabric": "lightning"}


def installed(rival: str) -> bool:
    return bool(version_of(PACKAGES[rival]))


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
