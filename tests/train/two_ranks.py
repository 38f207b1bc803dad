"""What two ranks do together, several things in one start: test_two_ranks.py reads the JSON lines that this prints.

Started by torchrun with the folder of films and the name of a scene.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from runs import run_file
from torch import Tensor, nn

from cxr_mtl.bundle import load_bundle
from cxr_mtl.config import LossConfig, ModelConfig, TrainConfig, load_config
from cxr_mtl.data.loader import eval_batches
from cxr_mtl.engine.distributed import gather, ranks
from cxr_mtl.engine.engine import Engine
from cxr_mtl.engine.optimize import make_groups
from cxr_mtl.model.multitask import MultiTaskModel, make_model, normalise
from cxr_mtl.paths import configs_dir
from cxr_mtl.train.loop import Run
from cxr_mtl.train.objective import Objective
from cxr_mtl.types import Batch

NAN, SIDE, STEPS = float("nan"), 64, 3
PARENTS: tuple[tuple[int, ...], ...] = ((), (0,), ())


def tell(**values: Any) -> None:
    sys.stdout.write("TOLD " + json.dumps(values) + "\n")
    sys.stdout.flush()


def stages(folder: Path, rank: int, world: int) -> None:
    """Each ZeRO stage, the last also from main memory, trains an epoch; its bundle answers as the live network does."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    offload = {"deepspeed": str(configs_dir() / "deepspeed" / "zero3_offload.json")}
    for number, how in enumerate([*({"zero_stage": stage} for stage in range(4)), {"zero_stage": 3} | offload]):
        stage, name = how["zero_stage"], f"run{number}"
        if rank == 0:  # the other would read what is half written
            run_file(folder, name, ema=0.0, precision="fp32", epochs=1, **how)
        dist.barrier()
        file = folder / f"{name}.yaml"
        run = Run(load_config(file, ["model.drop_path=0"]), rank, world)
        run.begin()
        run.learn(0, 0)
        run.keep(0)
        batch = next(eval_batches(run.study.val, batch_size=8))
        bundle = load_bundle(run.config.folder / "best")
        run.engine.module.eval()
        with torch.no_grad():
            films = normalise(batch.images)
            live, kept = run.engine(films), bundle.model(films)
        pairs = zip([live.findings, *live.box_logits], [kept.findings, *kept.box_logits], strict=True)
        apart = max(float((a - b).abs().max()) for a, b in pairs)
        checkpoint = run.config.folder / "checkpoints" / "epoch0001"
        if stage:
            whole = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), "epoch0001")
        else:
            whole = torch.load(checkpoint / "mp_rank_00_model_states.pt", weights_only=True)["module"]  # noqa: TID251
        weights = bundle.model.state_dict()
        differing = [n for n in weights if not torch.equal(weights[n], whole[n].float().reshape(weights[n].shape))]
        told = gather({"apart": apart, "differing": differing})
        if rank == 0:
            loss = [json.loads(line) for line in (run.config.folder / "log.jsonl").read_text().splitlines()]
            tell(stage=stage, ranks=told, loss=[e["loss"]["total"] for e in loss if e["event"] == "step"])


def network() -> MultiTaskModel:
    torch.manual_seed(0)
    config = ModelConfig(encoder="test_convnext", image_size=SIDE, fpn_channels=16, box_convs=1, drop_path=0.0)
    return make_model(config, 3, 2)


def films(rank: int, step: int, silent: str) -> Batch:
    """Two films of a rank; the second rank's lack boxes, labels or both."""
    draw = torch.Generator().manual_seed(10 * step + rank)
    boxed = rank == 0 or silent == "labels"
    labels = torch.tensor([[1.0, 0.0, NAN], [0.0, NAN, 1.0]])
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    rows = 4 * step + 2 * rank + torch.arange(2)
    return Batch(
        images=torch.randn(2, 1, SIDE, SIDE, generator=draw),
        labels=labels if rank == 0 or silent == "boxes" else torch.full_like(labels, NAN),
        boxes=[box if boxed else box[:0]] * 2,
        box_findings=[torch.tensor([1]) if boxed else torch.zeros(0, dtype=torch.int64)] * 2,
        has_boxes=torch.tensor([boxed] * 2),
        absent_known=torch.ones(2, 2, dtype=torch.bool),
        index=rows,
        draw=rows,
        step=4 * step + torch.arange(4),
    )


def objective_of(kind: str) -> Objective:
    """For the films of all steps and both ranks."""
    every = [films(rank, step, kind) for step in range(STEPS) for rank in (0, 1)]
    labels, boxed = (torch.cat([getattr(b, name) for b in every]).numpy() for name in ("labels", "has_boxes"))
    return Objective(LossConfig(), PARENTS, 2, SIDE, labels, boxed)


def joined(a: Batch, b: Batch) -> Batch:
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__}
    both = {n: torch.cat([x, y]) if isinstance(x, Tensor) else [*x, *y] for n, (x, y) in pairs.items()}
    return Batch(**both | {"step": a.step})


def apart(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Length of the difference."""
    return float(torch.stack([(value - others[name]).square().sum() for name, value in weights.items()]).sum().sqrt())


def silent(folder: Path, rank: int, world: int) -> None:
    """The second rank never gets boxes, labels, or either; the reference is one process with all films."""
    for kind in ("boxes", "labels", "both"):
        reference, objective = network(), objective_of(kind)
        config = TrainConfig(batch_size=4, lr=1e-3, ema=0.0, precision="fp32", clip=1.0)
        optimizer = torch.optim.AdamW(make_groups(reference, config), betas=(0.9, 0.99))
        for step in range(STEPS):
            batch = joined(films(0, step, kind), films(1, step, kind))
            optimizer.zero_grad()
            objective(reference(batch.images, objective.box_rows(batch)), batch)["total"].backward()
            nn.utils.clip_grad_norm_(reference.parameters(), config.clip)
            optimizer.step()
        for stage in (0, 1, 2):
            engine = Engine(network(), config.model_copy(update={"zero_stage": stage}), world, lambda step: 1.0)
            engine.train_mode()
            for step in range(STEPS):
                batch = films(rank, step, kind)
                engine.backward_and_step(objective(engine(batch.images, objective.box_rows(batch)), batch)["total"])
            with engine.whole_weights() as weights:
                first = {name: value.clone() for name, value in weights.items()}
                for value in first.values():
                    dist.broadcast(value, 0)
                way = apart(reference.state_dict(), network().state_dict())
                told = gather((apart(weights, first), apart(weights, reference.state_dict()) / way))
            if rank == 0:
                tell(kind=kind, stage=stage, ranks=max(t[0] for t in told), reference=max(t[1] for t in told))


def clipped(folder: Path, rank: int, world: int) -> None:
    """A huge loss: what reaches the optimizer has the largest norm allowed, at every stage."""
    for stage in (0, 1, 2, 3):
        config = TrainConfig(batch_size=4, lr=1e-3, ema=0.0, precision="fp32", clip=0.5, zero_stage=stage)
        engine = Engine(network(), config, world, lambda step: 1.0)
        engine.train_mode()
        outputs = engine(films(rank, 0, "").images)
        engine.backward_and_step(1e6 * sum(o.square().mean() for o in (outputs.findings, *outputs.box_deltas)))
        inner = engine._engine.optimizer
        state = getattr(inner, "optimizer", inner).state
        mean = torch.stack([s["exp_avg"].float().square().sum() for s in state.values()]).sum()
        if stage:
            dist.all_reduce(mean)  # each rank holds its part
        if rank == 0:
            tell(stage=stage, norm=float(mean.sqrt()) / (1 - 0.9))


if __name__ == "__main__":
    with ranks() as (rank, world):
        {"stages": stages, "silent": silent, "clipped": clipped}[sys.argv[2]](Path(sys.argv[1]), rank, world)
