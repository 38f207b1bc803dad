"""Images a second of the whole three-head step: our engine against torch DDP, accelerate and Lightning.

    python benchmarks/train_speed.py [--quick] [--json FILE] [--manifest M.parquet] [--peak-tflops N]

Three questions. What does the engine cost over plain DDP for the same model (limit 5 %)? How does it stand beside
accelerate and Lightning Fabric where a single linear head sits on the same encoder? What do the three heads cost over
that single head on convnext_tiny at 224 px (limit 60 %), where a third of the films has boxes, as in our part of NIH?

All rivals live in the same processes and step in turns, so the machine's moods meet all of them. Batches lie in memory.
Medians with quartiles by the clock; beside them CPU time, which neighbours on the machine disturb less. Ratios are
medians over the rounds of a rival's time over the other's in the same round. On a CPU every rank has one thread and
ranks talk over gloo. On a GPU also: model FLOPs utilisation with --peak-tflops (three times the forward pass), memory,
and with --manifest, of films the encoder's loader reads, the share of the time that is lost waiting for them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from parts.train_rank import Job
from parts.train_rivals import PACKAGES, installed, version_of
from parts.train_settings import compare_settings

ENGINE_LIMIT, HEADS_LIMIT, WAITING_LIMIT = 1.05, 1.60, 0.03
ENGINES = ["our engine, ZeRO 0", "our engine, ZeRO 1", "our engine, ZeRO 2"]
ZERO, DDP = ENGINES[0], "torch DDP"
HEADS, EVERY, ONE = "three heads", "three heads, every film boxed", "one linear head"
SETTINGS_OF = ("convnext_atto", "convnext_tiny", "swin_tiny_patch4_window7_224")
OPTIONAL = {name: package for name, package in PACKAGES.items() if name != DDP}


def main() -> None:
    arguments = parse()
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for world in arguments.ranks:
        for job in jobs(arguments):
            report(run(job, world), job, world, arguments.peak_tflops, rows, ratios)
    if arguments.settings:
        torch.set_num_threads(1)
        side, films, rounds = (64, 2, 2) if arguments.quick else (224, 2, 10)
        for encoder in ("test_convnext",) if arguments.quick else SETTINGS_OF:
            compare_settings(encoder, side, films, rounds, rows, ratios, compile_too=arguments.compile)
    missing = [name for name in OPTIONAL if not installed(name)]
    missing += ["a GPU"] * (not torch.cuda.is_available()) + ["two ranks"] * (2 not in arguments.ranks)
    missing += ["waiting for films (--manifest)"] * (arguments.manifest is None)
    print(f"\nNot here, so not measured: {', '.join(missing) or 'nothing'}.")
    if arguments.json:
        text = {
            "benchmark": "train_speed",
            "machine": machine(),
            "versions": {
                name: version_of(name)
                for name in ("cxr-mtl", "torch", "timm", "monai", "deepspeed", *OPTIONAL.values())
            },
            "rows": rows,
            "ratios": ratios,
        }
        arguments.json.write_text(json.dumps(text, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy network and two rounds: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each rival")
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=worlds(), help="how many; 1 and 2 if there are GPUs enough"
    )
    parser.add_argument("--settings", action="store_true", help="also what train.channels_last brings")
    parser.add_argument("--compile", action="store_true", help="with --settings, also train.compile: minutes a network")
    parser.add_argument("--batch", type=int, help="films a rank and step; 8 (convnext_tiny 3) on a CPU, 128 on a GPU")
    parser.add_argument("--manifest", type=Path, help="real films, to see how long the network waits for them")
    parser.add_argument("--peak-tflops", type=float, help="the GPU's bf16 peak, for model FLOPs utilisation")
    return parser.parse_args()


def worlds() -> list[int]:
    if not torch.cuda.is_available():
        return [1, 2]
    return [n for n in (1, 2) if n <= torch.cuda.device_count()]


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """A small network, whose steps hide no library's cost, with every rival; the one of the limit with the fewest."""
    every = {HEADS: [DDP, *ENGINES], ONE: [DDP, *OPTIONAL, ZERO]}
    few = {HEADS: [DDP, ZERO], EVERY: [ZERO], ONE: [DDP, ZERO]}
    manifest = str(arguments.manifest.resolve()) if arguments.manifest else None
    if arguments.quick:
        return [Job("test_convnext", 64, 2, 2, 1, every | {EVERY: [ZERO]}, manifest)]
    gpu = torch.cuda.is_available()
    atto, tiny = (arguments.batch or (128 if gpu else number) for number in (8, 3))
    rounds, steps = arguments.rounds, 10 if gpu else 1
    return [
        Job("convnext_atto", 224, atto, rounds, steps, every, manifest),
        Job("convnext_tiny", 224, tiny, rounds, steps, few, manifest),
    ]


def run(job: Job, world: int) -> dict[str, Any]:
    """Start the ranks and read what they measured."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "found.json"
        script = str(Path(__file__).parent / "parts" / "train_rank.py")
        command = [sys.executable, script, job.text(), str(file)]
        place = os.environ | {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if not torch.cuda.is_available():
            place |= {"OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen(command, env=place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(world)
        ]
        try:
            if any(process.wait() for process in running):
                sys.exit("train_speed: a rank failed; its error stands above.")
        finally:
            for process in running:
                process.kill()
        found: dict[str, Any] = json.loads(file.read_text())
    return found


def report(
    found: dict[str, Any],
    job: Job,
    world: int,
    peak: float | None,
    rows: list[dict[str, Any]],
    ratios: dict[str, float],
) -> None:
    """Print one job's table; adds to ``rows`` and ``ratios``."""
    films = job.batch * world
    where = f"{job.encoder}, {job.side} px, {world} rank{'s' * (world > 1)}"
    print(f"\n{where}, {job.batch} films a rank; {job.rounds} rounds")
    print(f"{'':<50}{'images/s':>9}{'quartiles':>15}{'best':>8}{'CPU ms/image':>14}{'  to DDP, clock  CPU':>21}")
    by_name = {(rival["task"], rival["name"]): rival for rival in found["rivals"]}
    task = ""
    for (of, name), rival in by_name.items():
        if of != task:
            task = of
            print(f"  {task} ({found['gflops'][task]:.2f} GFLOP an image forward)")
        pace = sorted(films / seconds for seconds in rival["wall"])
        # A rank's CPU time for each of its own films.
        cpu = sorted(1000 * seconds / job.batch for seconds in rival["cpu"])
        title = f"{of}, {name}, {where}"
        rows.append(row(title, "images/s", pace, "images/s"))
        rows.append(row(title, "images/s, fastest round", [max(pace)] * 2, "images/s"))
        rows.append(row(title, "CPU time", cpu, "ms/image"))
        line = f"    {name:<46}{median(pace):>9.1f}{spread(pace):>15}{max(pace):>8.1f}{median(cpu):>14.1f}"
        if (of, DDP) in by_name and name != DDP:
            clock, work = ratio(rival, by_name[of, DDP])
            line += f"{clock:>13.3f}{work:>8.3f}"
            ratios[f"{title} / {DDP}: clock"], ratios[f"{title} / {DDP}: CPU"] = clock, work
        print(line)
        if rival["peak"]:
            gpu(rival, title, found["gflops"][task] * median(pace) / world, peak, rows)
    verdict(by_name, where, ratios)
    if found["waiting"]:
        share = found["waiting"]["share"]
        rows.append(row(f"real films, {ZERO}, {where}", "waiting for films", [share] * 2, "share of the time"))
        print(
            f"  real films: {100 * share:.2f} % of the time lost waiting for them (limit {100 * WAITING_LIMIT:.0f} %)"
        )


def verdict(by_name: dict[tuple[str, str], dict[str, Any]], where: str, ratios: dict[str, float]) -> None:
    """What the limits are about, clock and CPU."""
    asked = [
        ("the engine over DDP, three heads", (HEADS, ZERO), (HEADS, DDP), ENGINE_LIMIT),
        ("three heads over one", (HEADS, ZERO), (ONE, ZERO), HEADS_LIMIT),
        ("three heads over one, plain DDP", (HEADS, DDP), (ONE, DDP), HEADS_LIMIT),
        ("three heads over one, every film boxed", (EVERY, ZERO), (ONE, ZERO), None),
    ]
    best = min((key for key in by_name if key[0] == ONE), key=lambda key: median(by_name[key]["wall"]))
    asked.append((f"the engine over the quickest of one head ({best[1]})", (ONE, ZERO), best, None))
    for words, ours, theirs, limit in asked:
        if ours in by_name and theirs in by_name:
            clock, work = ratio(by_name[ours], by_name[theirs])
            ratios[f"{words}, {where}: clock"], ratios[f"{words}, {where}: CPU"] = clock, work
            fastest = min(by_name[ours]["wall"]) / min(by_name[theirs]["wall"])
            ratios[f"{words}, {where}: fastest rounds"] = fastest
            bound = f"   limit {limit:.2f}" if limit else ""
            print(f"  {words:<62}{clock:>6.3f} clock{work:>7.3f} CPU{fastest:>7.3f} fastest rounds{bound}")


def ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float]:
    """Of times in the same round, the median over rounds: by the clock, and of CPU time."""
    clock, work = (median(a / b for a, b in zip(ours[kind], theirs[kind], strict=True)) for kind in ("wall", "cpu"))
    return clock, work


def gpu(rival: dict[str, Any], title: str, gflops: float, peak: float | None, rows: list[dict[str, Any]]) -> None:
    """Memory, and what share of the GPU's peak the arithmetic of a training step, thrice the forward pass, reaches."""
    rows.append(row(title, "GPU memory at rest", [rival["still"]] * 2, "MiB"))
    rows.append(row(title, "GPU memory of a step, on top", [rival["peak"]] * 2, "MiB"))
    words = f"{rival['still']:.0f} MiB at rest, {rival['peak']:.0f} MiB more in a step"
    if peak:
        used = 3 * gflops / 1000 / peak
        rows.append(row(title, "model FLOPs utilisation", [used] * 2, "share of the peak"))
        words += f", {100 * used:.1f} % of {peak:g} TFLOP/s"
    print(f"      {words}")


def spread(values: list[float]) -> str:
    low, _, high = quantiles(values, n=4)
    return f"{low:.1f} to {high:.1f}"


def row(name: str, metric: str, values: list[float], unit: str) -> dict[str, Any]:
    low, _, high = quantiles(values, n=4)
    return {"name": name, "metric": metric, "value": median(values), "unit": unit, "low": low, "high": high}


def machine() -> dict[str, Any]:
    here: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
    }
    if torch.cuda.is_available():
        here |= {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count()}
    # How glibc hands memory back decides some percent of a step on a CPU (docs/speed.md).
    here |= {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    return here


if __name__ == "__main__":
    main()
