"""From films on disk to batches a network can take: films a second on one core, by every road.

    python benchmarks/data.py --films ../shared/data/nih [--quick] [--json FILE]

Every road runs on one thread, in turns, several rounds in one process. The tables give medians and quartiles of films a
CPU second, so that neighbours on the machine count little; only packing and a GPU go by the clock. Films come from
memory once they were read, as those of a pack do that fits there (NIH's 112,120: 5.6 GB at 224 px, 29 GB at 512).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import warnings
from pathlib import Path

import cv2
import torch
from parts.data_roads import BATCH, Road, make_roads, per_film, version_of

SIDES, CORES = (224, 512), 16
# What one H200 takes, films a second: 30 % of its bf16 peak at three forward passes a step. Computed, not measured.
TAKES = {("convnext_tiny", 224): 8900, ("swin_tiny", 224): 8800, ("convnext_tiny", 512): 1700, ("swin_tiny", 512): 1550}
OPTIONAL = ("webdataset", "litdata", "mosaicml-streaming", "ffcv")


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sources = {"1024 px PNG": sorted((arguments.films / "native_1024").glob("*.png"))}
    sources["512 px JPEG"] = sorted((arguments.films / "images").glob("*.jpg"))
    sources = {name: files for name, files in sources.items() if files}
    with tempfile.TemporaryDirectory() as folder:
        roads = [road for side in SIDES for road in make_roads(sources, side, Path(folder) / str(side))]
        for _ in range(3 if arguments.quick else 7):
            for road in roads:
                road.measure(0.03 if arguments.quick else 0.1)
    ratios = table(roads, list(sources))
    supply(roads, ratios)
    if arguments.json:
        report = {
            "benchmark": "data",
            "machine": {"processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))},
            "versions": {n: version_of(n) for n in ("cxr-mtl", "torch", "torchvision", "monai", "pillow", *OPTIONAL)}
            | {"opencv": cv2.__version__},
            "rows": [road.row for road in roads],
            "ratios": ratios,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, default=Path("../shared/data/nih"), help="holds images/, native_1024/")
    parser.add_argument("--quick", action="store_true", help="few short rounds: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if not (arguments.films / "images").is_dir():
        print(f"data skipped: {arguments.films} holds no films. Give a folder in NIH's layout with --films.")
        sys.exit(0)
    return arguments


def table(roads: list[Road], sources: list[str]) -> dict[str, float]:
    """Print every road beside the best film-by-film road from the same files; gives the ratios."""
    best = {
        (source, side): max((r for r in roads if r.side == side and r.group == per_film(source)), key=lambda r: r.rate)
        for source in sources
        for side in SIDES
    }
    ratios = {}
    print(f"{'films a second on one core':<56}" + "".join(f"{f'{side} px':>9}{'quartiles':>17}" for side in SIDES))
    named: dict[tuple[str, str], dict[int, Road]] = {}
    for road in roads:
        named.setdefault((road.group, road.name), {})[road.side] = road
    group = ""
    for (of, name), by_side in named.items():
        if of != group:
            group = of
            print(f"\n{group}")
        print(f"  {name:<54}" + "".join(_cell(by_side[side]) for side in SIDES))
    print(f"\n{'ratio to the best road film by film':<56}" + "".join(f"{f'{side} px':>9}" for side in SIDES))
    for (of, name), by_side in named.items():
        if not of.startswith("batches"):
            continue
        for source in sources:
            shown = []
            for side in SIDES:
                rival = best[source, side]
                ratio = by_side[side].rate / rival.rate
                ratios[f"{name}, {side} px / {source}: {rival.name}"] = ratio
                shown.append(f"{ratio:>8.1f}x")
            print(f"  {name + ' / ' + source:<54}" + "".join(shown))
    for source in sources:
        one, two = (
            {r.side: r.rate for r in roads if r.group.startswith(f"{source}: writing") and r.name.startswith(n)}
            for n in "12"
        )
        for side in SIDES:
            ratios[f"writing a pack, 2 workers / 1, {source}, {side} px"] = two[side] / one[side]
        print(
            f"  {'writing a pack, 2 workers / 1, ' + source:<54}" + "".join(f"{two[s] / one[s]:>8.1f}x" for s in SIDES)
        )
    missing = [name for name in OPTIONAL if not version_of(name)] + ["a GPU"] * (not torch.cuda.is_available())
    print(f"\nNot here, so not measured: {', '.join(missing) or 'nothing'}.")
    return ratios


def supply(roads: list[Road], ratios: dict[str, float]) -> None:
    """Print what sixteen cores would bring to one GPU: an upper bound, as if memory and disk were endless."""
    print(f"\n{CORES} cores feeding one H200, an upper bound: {CORES} times one core. Steps of {BATCH} films.")
    print(f"{'':<58}{'films/s':>9}" + "".join(f"{model:>26}" for model in ("convnext_tiny", "swin_tiny")))
    for side in SIDES:
        takes = {model: rate for (model, of), rate in TAKES.items() if of == side}
        print(
            f"  what the GPU takes (computed), {side} px{'':<29}"
            + "".join(f"{rate:>13} {rate / BATCH:>5.0f} steps/s" for rate in takes.values())
        )
        for road in roads:
            if road.side != side or not (road.group.startswith("batches") or ": decode, resize, augment" in road.group):
                continue
            total = road.rate * CORES
            for model, rate in takes.items():
                ratios[f"{CORES} cores, {road.group}: {road.name}, {side} px / {model} takes"] = total / rate
            source = road.group.split(":")[0] if ":" in road.group else "pack"
            print(
                f"  {source + ': ' + road.name:<56}{total:>9.0f}"
                + "".join(
                    f"{min(total, rate) / BATCH:>11.0f} steps/s {min(1, total / rate):>5.0%}" for rate in takes.values()
                )
            )


def _cell(road: Road) -> str:
    low, high = road.row["low"], road.row["high"]
    return f"{road.rate:>9.0f}{f'{low:.0f} to {high:.0f}':>17}"


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")  # MONAI says what it did not find
        logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
        main()
