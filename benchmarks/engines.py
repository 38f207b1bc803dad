"""Which engine is fastest on this CPU, and which is true enough?

    python benchmarks/engines.py [--encoders convnext_tiny swin_tiny_patch4_window7_224] [--rounds N] [--quick]
    python benchmarks/engines.py --bundle runs/nih_convnext/best --manifest nih.parquet [--splits val test train]
    python benchmarks/engines.py --gpu [the same]

The first form times one forward pass of the whole three-head network, random weights, 224 px, engines interleaved: CPU
milliseconds and wall milliseconds a film, with one thread and with all, one film and four at once; seconds until the
first answer (loading the library, compiling); the largest difference of a probability from torch's float32. The engine
computes the encoder; the heads are torch's in float32 for all, as they are when serving.

The second form proves a trained bundle's compiled encoder on real films, as `cxr-mtl package` does: differences of
AUROC and box accuracy (limit .002), films whose calls are all alike (at least 99.5 %), films that are looked at twice.
With --gpu the first form times the whole network in the ways that a GPU has, wall ms of 1, 4 and 16 films, and the
second holds what the GPU answers to what torch's float32 answers on the CPU.

Rivals: ONNX Runtime, torch.compile (inductor) and AOTInductor; one that is not installed is named as such.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from parts import engine_gpu
from parts.engine_rivals import BOXED, FINDINGS, SIDE, Engine, Maps, engines
from torch import Tensor

from cxr_mtl.bundle import load_bundle
from cxr_mtl.config import ModelConfig
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.evaluate.collect import collect
from cxr_mtl.model.multitask import MultiTaskModel, make_model, normalise
from cxr_mtl.package.engine import convert_encoder
from cxr_mtl.package.prove import ProofFilms, compare, in_words, prove
from cxr_mtl.predict.compiled import BFLOAT16, FLOAT32, About, can_bfloat16
from cxr_mtl.predict.predictor import LocalPredictor

FILMS = 4
ENCODERS = ["convnext_tiny", "swin_tiny_patch4_window7_224"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=ENCODERS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a tiny encoder, two rounds, no compilers")
    parser.add_argument("--bundle", type=Path, help="prove this bundle's encoder instead")
    parser.add_argument("--manifest", type=Path, default=Path("nih.parquet"))
    parser.add_argument("--splits", nargs="+", default=["val", "test", "train"])
    parser.add_argument("--gpu", action="store_true", help="on a GPU instead of the CPU")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    missing = "a GPU" * (arguments.gpu and not torch.cuda.is_available())
    missing = missing or "OpenVINO, pip install 'cxr-mtl[serve]'" * (not arguments.gpu and not installed("openvino"))
    if missing:
        print(f"engines skipped, for want of {missing}.")
        sys.exit(0)
    if arguments.bundle is not None:
        prove_on = gpu_proofs if arguments.gpu else proofs
        rows = prove_on(arguments.bundle, arguments.manifest, arguments.splits)
    elif arguments.gpu:
        encoders, rounds = (["test_convnext"], 2) if arguments.quick else (arguments.encoders, arguments.rounds)
        rows = [r for e in encoders for r in engine_gpu.timings(e, rounds, compilers=not arguments.quick)]
    elif arguments.quick:
        rows = timings("test_convnext", 2, [e for e in engines() if "nductor" not in e.name])
    else:
        rows = [row for encoder in arguments.encoders for row in timings(encoder, arguments.rounds, engines())]
    if arguments.json:
        libraries = ("torch", "openvino", "onnxruntime")
        body = {
            "benchmark": "engines",
            "command": " ".join(["python", *sys.argv]),
            "machine": machine(gpu=arguments.gpu),
            "versions": {name: version(name) for name in libraries if installed(name)},
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def timings(encoder: str, rounds: int, rivals: list[Engine]) -> list[dict[str, Any]]:
    """Every engine in every setting, one after the other in each round."""
    torch.manual_seed(0)
    config = ModelConfig(encoder=encoder, image_size=SIDE, drop_path=0.0)
    model = make_model(config, FINDINGS, BOXED).eval()
    torch.nn.init.normal_(model.findings.linear.weight, std=0.05)
    images = normalise(torch.randint(0, 256, (FILMS, 1, SIDE, SIDE), dtype=torch.uint8))
    most = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temp, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = judge(model, model.encoder, images)
        for threads in dict.fromkeys((1, most)):
            torch.set_num_threads(threads)
            ready: list[tuple[Engine, Maps]] = []
            for rival in rivals:
                if not installed(rival.needs):
                    continue
                started = time.perf_counter()
                maps = rival.make(model, threads, Path(temp))
                found = judge(model, maps, images)
                rival.start.append(time.perf_counter() - started)
                rival.apart = max(rival.apart, float((found.sigmoid() - exact.sigmoid()).abs().max()))
                ready.append((rival, maps))
            for films in (1, FILMS):
                for _ in range(rounds):
                    for rival, maps in ready:
                        measure(rival, (threads, films), model, maps, images[:films])
    return table(encoder, rivals, most)


def judge(model: MultiTaskModel, maps: Maps, images: Tensor) -> Tensor:
    found = maps(images)
    if model.boxes is not None:
        model.boxes(found)
    return torch.cat([model.findings(found[-2:]), model.hierarchy(found[-2:])], 1)


def measure(rival: Engine, setting: tuple[int, int], model: MultiTaskModel, maps: Maps, images: Tensor) -> None:
    judge(model, maps, images)  # what the others left in the caches is not its fault
    cpu, wall = time.process_time(), time.perf_counter()
    judge(model, maps, images)
    rival.cpu.setdefault(setting, []).append((time.process_time() - cpu) * 1e3 / len(images))
    rival.wall.setdefault(setting, []).append((time.perf_counter() - wall) * 1e3 / len(images))


def table(encoder: str, rivals: list[Engine], most: int) -> list[dict[str, Any]]:
    settings = [(threads, films) for threads in dict.fromkeys((1, most)) for films in (1, FILMS)]
    print(f"\n{encoder}, {SIDE} px, three heads: CPU ms a film (wall ms), median of the rounds; * is ours")
    print(
        f"{'':<28}"
        + "".join(f"{f'{t} thr, {n} films':>20}" for t, n in settings)
        + f"{'start s':>9}{'apart':>10}{'x torch':>9}"
    )
    rows: list[dict[str, Any]] = []
    base = median(rivals[0].cpu[1, FILMS])
    for rival in rivals:
        if not rival.cpu:
            print(f"{rival.name:<28}not installed: pip install {rival.needs}")
            rows.append({"name": rival.name, "metric": "not installed", "value": None, "unit": ""})
            continue
        cells = [f"{median(rival.cpu[s]):.1f} ({median(rival.wall[s]):.1f})" for s in settings]
        ratio = base / median(rival.cpu[1, FILMS])
        print(
            f"{rival.name:<28}"
            + "".join(f"{cell:>20}" for cell in cells)
            + f"{max(rival.start):>9.1f}{rival.apart:>10.1e}{ratio:>9.2f}"
        )
        for (threads, films), values in rival.cpu.items():
            low, high = np.quantile(values, (0.25, 0.75))
            rows.append(
                {
                    "name": rival.name,
                    "metric": f"{encoder}, {threads} threads, {films} films",
                    "value": round(median(values), 2),
                    "unit": "CPU ms a film",
                    "low": round(float(low), 2),
                    "high": round(float(high), 2),
                    "wall": round(median(rival.wall[threads, films]), 2),
                }
            )
        rows.append(
            {"name": rival.name, "metric": f"{encoder}, start", "value": round(max(rival.start), 2), "unit": "s"}
        )
        rows.append({"name": rival.name, "metric": f"{encoder}, apart", "value": rival.apart, "unit": "probability"})
    return rows


def proofs(folder: Path, manifest: Path, splits: list[str]) -> list[dict[str, Any]]:
    """A trained bundle's own encoder, in both precisions, on real films."""
    here_or_skip(folder, manifest)
    bundle, films, rows = load_bundle(folder), load_manifest(manifest), []
    with tempfile.TemporaryDirectory() as temp:
        convert_encoder(bundle.model.encoder, bundle.image_size, Path(temp))
        for precision in (FLOAT32, BFLOAT16):
            margins = None
            for split in splits:  # the first fits the margins for all
                About(bundle.sha256, precision).write(Path(temp))
                proof = prove(bundle, Path(temp), ProofFilms(films, split), len(films), margins)
                margins = proof.margins if margins is None else margins
                verdict = "; ".join(proof.failures) or "may be served"
                print(f"{bundle.name} {precision}: {in_words(proof.numbers)}: {verdict}")
                rows.append(
                    {"name": f"{bundle.name} {precision}", "metric": split, **proof.numbers, "failures": proof.failures}
                )
    return rows


def gpu_proofs(folder: Path, manifest: Path, splits: list[str]) -> list[dict[str, Any]]:
    """A trained bundle on the GPU against torch's float32 on the CPU."""
    here_or_skip(folder, manifest)
    films, rows = load_manifest(manifest), []
    for split in splits:
        exact, other = (
            collect(LocalPredictor(folder, device), films, split, batch_size=8, progress=False)
            for device in ("cpu", "cuda")
        )
        bundle = load_bundle(folder)
        numbers = {"films": len(exact.probability)} | compare(bundle, exact, other)
        print(f"{bundle.name} on the GPU, {split}: {numbers}")
        rows.append({"name": f"{bundle.name} on the GPU", "metric": split, **numbers})
    return rows


def here_or_skip(folder: Path, manifest: Path) -> None:
    if not folder.is_dir() or not manifest.is_file():
        print(f"engines skipped: {folder if manifest.is_file() else manifest} is not there.")
        sys.exit(0)


def machine(*, gpu: bool) -> str:
    cores = f"{platform.machine()}, {os.cpu_count()} cores"
    return f"{cores}, {torch.cuda.get_device_name()}" if gpu else f"{cores}, bfloat16 {can_bfloat16()}"


def installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
