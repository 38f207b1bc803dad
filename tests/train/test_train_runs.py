"""Whole runs in processes of their own: one rank, two ranks, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from cxr_mtl.bundle import WEIGHTS, load_bundle
from cxr_mtl.data.manifest import save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_study_set(folder / "films", 120, 0, 128)
    manifest, _ = import_source("nih", folder / "films", ontology="nih14", seed=0)
    save_manifest(manifest, folder / "films.parquet")
    return folder


def run_file(folder: Path, name: str, **train: object) -> Path:
    tree = {
        "name": name,
        "output": str(folder / "runs"),
        "data": {"manifest": str(folder / "films.parquet"), "min_positives": 2},
        "model": {"encoder": "test_convnext", "image_size": 64, "fpn_channels": 16, "box_convs": 1, "drop_path": 0.1},
        "train": {"epochs": 3, "batch_size": 16, "ema": 0.9, "warmup_epochs": 1, **train},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def train(*args: str, launcher: tuple[str, ...] = (sys.executable, "-m")) -> subprocess.CompletedProcess[str]:
    command = [*launcher, "cxr_mtl", "train", *args]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def log(folder: Path, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "runs" / name / "log.jsonl").read_text().splitlines()]


def losses(folder: Path, name: str) -> list[tuple[object, object]]:
    return [(e["step"], e["loss"]) for e in log(folder, name) if e["event"] == "step"]


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> str:
    done = train("-c", str(run_file(folder, "undisturbed")))
    assert done.returncode == 0, done.stderr
    return "undisturbed"


def test_one_process_leaves_a_run_one_can_read(folder: Path, undisturbed: str) -> None:
    run = folder / "runs" / undisturbed
    assert {"config.yaml", "split.csv", "log.jsonl", "best", "checkpoints"} <= {p.name for p in run.iterdir()}
    entries = log(folder, undisturbed)
    epochs = [e for e in entries if e["event"] == "epoch"]
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    assert set(losses(folder, undisturbed)[0][1]) == {"findings", "hierarchy", "boxes", "total"}  # type: ignore[call-overload]
    bundle = load_bundle(run / "best")
    assert "Effusion" in bundle.trained
    assert set(bundle.operating_points) == {"balanced", "f1", "sensitive", "specific"}
    assert (run / "checkpoints" / "latest").read_text() == "epoch0003"


def test_a_run_is_not_overwritten(folder: Path, undisturbed: str) -> None:
    again = train("-c", str(folder / f"{undisturbed}.yaml"))
    assert again.returncode == 2
    assert "holds a run already" in again.stderr
    assert "Traceback" not in again.stderr


def test_killed_and_resumed_ends_where_the_undisturbed_run_ended(folder: Path, undisturbed: str) -> None:
    file = run_file(folder, "killed")
    process = subprocess.Popen(
        [sys.executable, "-m", "cxr_mtl", "train", "-c", str(file)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    lines = folder / "runs" / "killed" / "log.jsonl"
    deadline = time.monotonic() + 300
    # In the middle of the second epoch: after its first step, before its last.
    while not (lines.exists() and '"epoch": 2' in lines.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "runs" / "killed" / "checkpoints" / "latest").read_text() == "epoch0001"
    resumed = train("-c", str(file), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert losses(folder, "killed") == losses(folder, undisturbed)
    mine, theirs = (
        load_file(folder / "runs" / name / "checkpoints" / "epoch0003" / "weight_mean.safetensors")
        for name in ("killed", undisturbed)
    )
    assert all((mine[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize("stage", [1, 2])
def test_two_ranks(folder: Path, stage: int) -> None:
    file = run_file(folder, f"two{stage}", zero_stage=stage, epochs=1)
    done = train("-c", str(file), launcher=("deepspeed", "--num_gpus", "2", "--module"))
    assert done.returncode == 0, done.stderr
    epochs = [e for e in log(folder, f"two{stage}") if e["event"] == "epoch"]
    assert len(epochs) == 1
    weights = load_file(folder / "runs" / f"two{stage}" / "best" / WEIGHTS)
    assert all((w == w).all() for w in weights.values())


def test_two_ranks_and_accumulation_need_an_even_batch(folder: Path) -> None:
    done = train("-c", str(run_file(folder, "odd", batch_size=15, accumulate=5)), "-s", "train.accumulate=4")
    assert done.returncode == 2
    assert "not divisible" in done.stderr


def test_resume_without_a_checkpoint_is_one_line(folder: Path) -> None:
    done = train("-c", str(run_file(folder, "none")), "--resume")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("CheckpointError: ")
    assert "Start without --resume" in done.stderr
