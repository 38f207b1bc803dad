"""Whole runs in processes of their own, on a few drawn films."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    # For scripts of the tests, which import this file.
    "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
}
ALONE = (sys.executable, "-m", "cxr_mtl")
TORCHRUN = ("torchrun", "--standalone", "--nproc_per_node", "2", "--module", "cxr_mtl")
DEEPSPEED = ("deepspeed", "--num_gpus", "2", "--master_port", str(free_port()), "--module", "cxr_mtl")
PATIENCE = 300  # seconds that a run may take on a busy machine


def disturbed(launcher: tuple[str, ...]) -> tuple[str, ...]:
    """The launcher with disturbed.py in place of the command line."""
    return (*launcher[:-2], str(HERE / "disturbed.py"))


def draw_films(folder: Path) -> Path:
    """A manifest of 120 drawn films, split; gives the folder."""
    write_study_set(folder / "films", 120, 0, 128)
    manifest, _ = import_source("nih", folder / "films", ontology="nih14", seed=0)
    save_manifest(manifest, folder / "films.parquet")
    return folder


def run_file(folder: Path, name: str, loss: dict[str, object] | None = None, **train: object) -> Path:
    """A run of five steps an epoch."""
    tree = {
        "name": name,
        "output": str(folder / "runs"),
        "data": {"manifest": str(folder / "films.parquet"), "min_positives": 2},
        "model": {"encoder": "test_convnext", "image_size": 64, "fpn_channels": 16, "box_convs": 1, "drop_path": 0.1},
        "loss": loss or {},
        "train": {"epochs": 3, "batch_size": 16, "ema": 0.9, "warmup_epochs": 1, **train},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def start(
    *args: str,
    verb: str = "train",
    launcher: tuple[str, ...] = ALONE,
    before: Callable[[], None] | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> subprocess.Popen[str]:
    """Begin a run in a process group of its own."""
    return subprocess.Popen(
        [*launcher, verb, *args],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=before,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Exit code and what our own program said on stderr, without the launchers' reports."""
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        kill_all(process)
        raise
    told = [line for line in errors.splitlines() if "Error: " in line or "Stopped: " in line or "going on from" in line]
    return process.returncode, [line for line in told if not line.startswith(("[", " ", "torch."))] or [errors[-2000:]]


def train(*args: str, verb: str = "train", launcher: tuple[str, ...] = ALONE) -> list[str]:
    """A run from begin to end, which must be a good one; gives what it said of itself."""
    code, told = finish(start(*args, verb=verb, launcher=launcher))
    assert code == 0, told
    return told


def kill_before(step: int, folder: Path, *args: str, verb: str = "train", launcher: tuple[str, ...] = ALONE) -> None:
    """A run that is killed, launcher and ranks, before it takes an optimizer step."""
    mark = folder / f"paused{step}"
    mark.unlink(missing_ok=True)
    environment = ENVIRONMENT | {"PAUSE_AT": str(step), "PAUSE_MARK": str(mark)}
    process = start(*args, verb=verb, launcher=disturbed(launcher), environment=environment)
    deadline = time.monotonic() + PATIENCE
    while not mark.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill_all(process)


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the launcher and all ranks, also those that a launcher has put in a session of their own."""
    everyone = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in everyone:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(everyone, timeout=30)
    process.communicate()


def ranks_of(process: subprocess.Popen[str], rank: int) -> list[psutil.Process]:
    """The processes of one rank of a run."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if child.environ().get("RANK") == str(rank) and "train" in child.cmdline():
                found.append(child)
    return found


def wait_for_step(process: subprocess.Popen[str], folder: Path, name: str, step: int) -> None:
    """Until the log has come to an optimizer step."""
    lines = folder / "runs" / name / "log.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (lines.exists() and f'"step": {step},' in lines.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def log(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs" / name / "log.jsonl").read_text().splitlines()]


def losses(folder: Path, name: str) -> list[tuple[int, dict[str, float]]]:
    return [(e["step"], e["loss"]) for e in log(folder, name) if e["event"] == "step"]


def latest(folder: Path, name: str) -> str:
    return (folder / "runs" / name / "checkpoints" / "latest").read_text()
