"""Do ``train.channels_last`` and ``train.compile`` pay? Forward and backward of the encoder alone, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from cxr_mtl.engine.distributed import device
from cxr_mtl.model.encoder import make_encoder

LAYOUTS = {"as it comes": torch.contiguous_format, "channels_last": torch.channels_last}


def compare_settings(
    encoder: str,
    side: int,
    batch: int,
    rounds: int,
    rows: list[dict[str, Any]],
    ratios: dict[str, float],
    *,
    compile_too: bool,
) -> None:
    """Time every setting: CPU seconds of one thread, or a GPU's by the clock; adds to ``rows`` and ``ratios``.

    Each setting has its own copy of the network and of the films.
    """
    to = device()
    clock = time.perf_counter if to.type == "cuda" else time.process_time
    steps: dict[str, Callable[[], None]] = {}
    started: dict[str, float] = {}
    for compiled in (False, True)[: 1 + compile_too]:
        for layout, memory in LAYOUTS.items():
            name = layout if not compiled else "compile" if layout == "as it comes" else f"compile, {layout}"
            torch.manual_seed(0)
            net: nn.Module = make_encoder(encoder, drop_path=0.1).to(to).to(memory_format=memory)  # type: ignore[call-overload]
            films = torch.randn(batch, 1, side, side, device=to).to(memory_format=memory)
            steps[name] = _step(torch.compile(net) if compiled else net, films)
            begin = time.perf_counter()
            for _ in range(3):  # the first compiles
                steps[name]()
            started[name] = time.perf_counter() - begin
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        order = list(steps)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            begin = clock()
            steps[name]()
            spent[name].append(1000 * (clock() - begin) / batch)
    where = f"{encoder}, {side} px, encoder alone"
    base = spent["as it comes"]
    print(f"\n{where}, {batch} films: ms an image, {'by the clock' if to.type == 'cuda' else 'CPU'}; {rounds} rounds")
    for name, times in spent.items():
        low, _, high = quantiles(times, n=4)
        ratio = median(a / b for a, b in zip(times, base, strict=True))
        print(
            f"  {name:<26}{median(times):>8.1f}{f'{low:.1f} to {high:.1f}':>16}{min(times):>8.1f} best{ratio:>8.3f} of "
            f"as it comes{started[name]:>8.0f} s the first three steps"
        )
        entry = {"name": f"{where}, {name}", "metric": "forward and backward", "value": median(times)}
        rows.append(entry | {"unit": "ms/image", "low": low, "high": high})
        ratios[f"{where}, {name} / as it comes"] = ratio


def _step(net: Callable[[torch.Tensor], list[torch.Tensor]], films: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast(films.device.type, torch.bfloat16):
            maps = net(films)
        sum(m.float().mean() for m in maps).backward()  # type: ignore[union-attr]
        if films.device.type == "cuda":
            torch.cuda.synchronize()

    return step
