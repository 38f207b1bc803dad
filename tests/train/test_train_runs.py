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

from cxr_mtl.bundle import load_bundle
from cxr_mtl.config import load_config
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.split import split_by_patient
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.engine.settings import deepspeed_settings
from cxr_mtl.errors import ConfigError

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
    # The kill may come as late as the second checkpoint; what counts is that going on gives the same numbers.
    assert (folder / "runs" / "killed" / "checkpoints" / "latest").read_text() in {"epoch0001", "epoch0002"}
    resumed = train("-c", str(file), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert losses(folder, "killed") == losses(folder, undisturbed)
    mine, theirs = (
        load_file(folder / "runs" / name / "checkpoints" / "epoch0003" / "weight_mean.safetensors")
        for name in ("killed", undisturbed)
    )
    assert all((mine[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize(
    ("stage", "precision", "ema"), [(0, "fp32", 0.9), (1, "bf16", 0.9), (2, "bf16", 0.9), (3, "fp32", 0.0)]
)
def test_two_ranks(folder: Path, undisturbed: str, stage: int, precision: str, ema: float) -> None:
    """Every ZeRO stage learns the same thing: after one epoch the loss has fallen as far as one rank's."""
    name = f"two{stage}"
    file = run_file(folder, name, zero_stage=stage, precision=precision, ema=ema, epochs=1)
    done = train("-c", str(file), launcher=("deepspeed", "--num_gpus", "2", "--module"))
    assert done.returncode == 0, done.stderr
    (epoch,) = [e for e in log(folder, name) if e["event"] == "epoch"]
    one = next(e for e in log(folder, undisturbed) if e["event"] == "epoch")
    assert epoch["loss"] == pytest.approx(one["loss"], rel=0.05)
    assert set(load_bundle(folder / "runs" / name / "best").trained) == set(
        load_bundle(folder / "runs" / undisturbed / "best").trained
    )


def test_two_ranks_resume(folder: Path, undisturbed: str) -> None:
    launcher = ("deepspeed", "--num_gpus", "2", "--module")
    file = str(run_file(folder, "again", epochs=2))
    assert train("-c", file, "-s", "train.epochs=1", launcher=launcher).returncode == 0
    alone = train("-c", file, "--resume")
    assert alone.returncode == 2
    assert "was trained by 2 ranks, here are 1" in alone.stderr
    together = train("-c", file, "--resume", launcher=launcher)
    assert together.returncode == 0, together.stderr
    assert [e["epoch"] for e in log(folder, "again") if e["event"] == "epoch"] == [1, 2]


@pytest.mark.parametrize(
    ("setting", "says"), [("seed=7", "seed=0, this run has 7"), ("train.batch_size=8", "train.batch_size=16")]
)
def test_another_run_is_not_resumed(folder: Path, undisturbed: str, setting: str, says: str) -> None:
    done = train("-c", str(folder / f"{undisturbed}.yaml"), "-s", setting, "--resume")
    assert done.returncode == 2
    assert says in done.stderr


def test_another_split_is_not_resumed(folder: Path, undisturbed: str) -> None:
    other = folder / "other.parquet"
    save_manifest(
        split_by_patient(load_manifest(folder / "films.parquet"), {"train": 0.6, "val": 0.2, "test": 0.2}, 5), other
    )
    done = train("-c", str(folder / f"{undisturbed}.yaml"), "-s", f"data.manifest={other}", "--resume")
    assert done.returncode == 2
    assert "another split" in done.stderr


def test_batch_that_ranks_cannot_share(folder: Path) -> None:
    with pytest.raises(ConfigError, match="15 films cannot be shared by 2 ranks x 1"):
        deepspeed_settings(load_config(run_file(folder, "odd", batch_size=15)).train, world=2)


def test_resume_without_a_checkpoint_is_one_line(folder: Path) -> None:
    done = train("-c", str(run_file(folder, "none")), "--resume")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("CheckpointError: ")
    assert "Start without --resume" in done.stderr
