"""The engines of benchmarks/engines.py on a GPU: each a way to compute the whole network, and how long it takes.

On a GPU the steps of the heads weigh as much as the encoder's, so the whole network is what each engine computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from parts.engine_rivals import BOXED, FINDINGS, SIDE
from torch import Tensor

from cxr_mtl.config import ModelConfig
from cxr_mtl.model.multitask import MultiTaskModel, make_model, normalise
from cxr_mtl.predict.recorded import RecordedModel
from cxr_mtl.types import Outputs

BATCHES = (1, 4, 16)
WARM_UPS, PASSES = 5, 20
Network = Callable[[Tensor], Outputs]


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions and matrix products may round float32 factors to ten bits of fraction."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Autocast(MultiTaskModel):
    """The network in half precision; what comes out is float32."""

    def __init__(self, model: MultiTaskModel, to: torch.dtype) -> None:
        super().__init__(model.encoder, model.findings, model.hierarchy, model.boxes)
        self.to_type = to

    def forward(self, images: Tensor, box_rows: Tensor | None = None) -> Outputs:
        with torch.autocast("cuda", self.to_type, cache_enabled=False):
            return super().forward(images, box_rows)


def compiled(**options: Any) -> Callable[[MultiTaskModel], Network]:
    def make(model: MultiTaskModel) -> Network:
        torch.compiler.reset()
        network: Network = torch.compile(model, **options)
        return network

    return make


def engines() -> dict[str, tuple[bool, Callable[[MultiTaskModel], Network]]]:
    """By name: whether TF32 is allowed, and what makes it."""
    bf16, fp16 = torch.bfloat16, torch.float16
    return {
        "torch float32": (False, lambda model: model),
        "torch TF32": (True, lambda model: model),
        "torch bfloat16": (True, lambda model: Autocast(model, bf16)),
        "recorded float32 *": (False, RecordedModel),
        "recorded bfloat16": (True, lambda model: RecordedModel(Autocast(model, bf16))),
        "recorded float16": (True, lambda model: RecordedModel(Autocast(model, fp16))),
        "inductor float32, graphs": (False, compiled(mode="reduce-overhead")),
        "inductor bfloat16, graphs": (True, lambda model: compiled(mode="reduce-overhead")(Autocast(model, bf16))),
    }


def timings(encoder: str, rounds: int, *, compilers: bool) -> list[dict[str, Any]]:
    """Every engine with every size of batch, one after the other in each round."""
    torch.manual_seed(0)
    config = ModelConfig(encoder=encoder, image_size=SIDE, drop_path=0.0)
    model = make_model(config, FINDINGS, BOXED).eval()
    torch.nn.init.normal_(model.findings.linear.weight, std=0.05)
    pixels = torch.randint(0, 256, (max(BATCHES), 1, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        right = model(normalise(pixels[: BATCHES[1]])).findings.sigmoid()
    model, images = model.cuda(), normalise(pixels.cuda())
    chosen = {n: e for n, e in engines().items() if compilers or "inductor" not in n}
    rows: list[dict[str, Any]] = []
    walls: dict[tuple[str, int], list[float]] = {}
    print(f"\n{encoder}, {SIDE} px, three heads, {torch.cuda.get_device_name()}: ms a pass; * is ours")
    with torch.no_grad():
        networks = {}
        for name, (allowed, make) in chosen.items():
            started, before = time.perf_counter(), torch.cuda.memory_reserved()
            with tf32(allowed):
                networks[name] = make(model)
                found = networks[name](images[: BATCHES[1]]).findings.float().sigmoid().cpu()
                for batch in BATCHES:
                    wall(networks[name], images[:batch], WARM_UPS)
            print(f"{name}: ready", flush=True)  # compilers take minutes
            apart, start = float((found - right).abs().max()), time.perf_counter() - started
            rows.append({"name": name, "metric": f"{encoder}, start", "value": round(start, 2), "unit": "s"})
            rows.append({"name": name, "metric": f"{encoder}, apart", "value": apart, "unit": "probability"})
            held = (torch.cuda.memory_reserved() - before) / 2**20
            rows.append({"name": name, "metric": f"{encoder}, memory", "value": round(held), "unit": "MiB"})
        for _ in range(rounds):
            for name, (allowed, _) in chosen.items():
                for batch in BATCHES:
                    with tf32(allowed):
                        wall(networks[name], images[:batch], 2)
                        walls.setdefault((name, batch), []).append(wall(networks[name], images[:batch], PASSES))
    for (name, batch), values in walls.items():
        low, high = np.quantile(values, (0.25, 0.75)).tolist()
        row = {"name": name, "metric": f"{encoder}, {batch} films", "value": round(median(values), 3)}
        rows.append(row | {"unit": "wall ms a pass", "low": round(low, 3), "high": round(high, 3)})
    show(rows, encoder)
    return rows


def wall(network: Network, images: Tensor, passes: int) -> float:
    """Milliseconds from the call to the numbers, each pass waited for, as a server does."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(passes):
        network(images)
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) * 1e3 / passes


def show(rows: list[dict[str, Any]], encoder: str) -> None:
    table = {(row["name"], row["metric"].removeprefix(f"{encoder}, ")): row["value"] for row in rows}
    print(f"{'':<28}" + "".join(f"{f'{n} films':>12}" for n in BATCHES) + f"{'start s':>10}{'apart':>10}{'MiB':>8}")
    for name in dict.fromkeys(name for name, _ in table):
        cells = "".join(f"{table[name, f'{n} films']:>12.2f}" for n in BATCHES)
        memory = f"{table[name, 'memory']:>8}"
        print(f"{name:<28}{cells}{table[name, 'start']:>10.1f}{table[name, 'apart']:>10.1e}{memory}")
