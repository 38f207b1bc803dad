"""The files of configs/cluster: the SLURM script runs, with commands of SLURM that note what they are asked for."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from runs import ENVIRONMENT, PATIENCE, draw_films, finish, kill_all, latest, log, run_file, wait_for_step

from cxr_mtl.paths import configs_dir

SCRIPT = configs_dir() / "cluster" / "slurm_train.sh"
JOB = "34711"
# srun leaves out its own options and runs the rest, as on one node; scancel tells it, as SLURM tells all of a step.
FAKES = {
    "scontrol": '[ "$1" != show ] || printf "%s\\n" $HOSTS',
    "scancel": 'kill -TERM "$(cat "$NOTES/srun.pid")"',
    "srun": """echo "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" > "$NOTES/patience"
while [[ $1 == --* ]]; do shift; done
"${INSTEAD:-$1}" "${@:2}" & echo $! > "$NOTES/srun.pid"; wait $!""",
    "idle": "for i in {1..600}; do sleep 0.05; done",
    "fail": "exit 3",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Environment of a job of two nodes with eight GPUs each; commands leave their arguments in a file, one a line."""
    for name, work in FAKES.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >> "$NOTES/{name}"\n{work}\n')
        file.chmod(0o755)
    return ENVIRONMENT | {
        "PATH": f"{tmp_path / 'bin'}:{ENVIRONMENT['PATH']}",
        "NOTES": str(tmp_path),
        "HOSTS": "gpu-17 gpu-18",
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": "gpu-[17-18]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "16",
    }


def submit(slurm: Mapping[str, str], *args: str) -> subprocess.Popen[str]:
    """The script as a job runs it: a copy that lies elsewhere, in the folder that it was submitted from."""
    copy = Path(slurm["NOTES"]) / "slurm_script"
    copy.write_text(SCRIPT.read_text())
    return subprocess.Popen(
        ["bash", str(copy), *args],
        env=dict(slurm),
        cwd=slurm["NOTES"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(job: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    _, said = job.communicate(timeout=PATIENCE)
    return job.returncode, said


def notes(slurm: Mapping[str, str], name: str) -> list[str]:
    file = Path(slurm["NOTES"]) / name
    return file.read_text().splitlines() if file.exists() else []


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_bash_and_sbatch_read_of_it() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    lines = SCRIPT.read_text().splitlines()
    (first_command,) = (n for n, line in enumerate(lines) if line == "set -u")
    directives = [n for n, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert directives
    assert max(directives) < first_command  # sbatch reads no further


def test_launch_line(slurm: dict[str, str]) -> None:
    job = submit(slurm | {"INSTEAD": "true"}, "big", "-c", "my run.yaml", "-s", "train.lr=1e-4")
    assert end(job)[0] == 0
    ours = ["train", "-c", "my run.yaml", "-s", "train.lr=1e-4", "-s", "name=big", "-s", "output=runs"]
    endpoint = "gpu-17:24711"
    launcher = ["--nnodes", "2", "--nproc_per_node", "8", "--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint]
    launcher += ["--rdzv_id", JOB, "--module", "cxr_mtl"]
    assert notes(slurm, "srun") == ["--kill-on-bad-exit=1", "--cpus-per-task=16", "torchrun", *launcher, *ours]
    assert notes(slurm, "scontrol") == ["show", "hostnames", "gpu-[17-18]"]
    assert notes(slurm, "scancel") == []
    warned = int(next(line for line in SCRIPT.read_text().splitlines() if "--signal=B:USR1@" in line).split("@")[1])
    assert 30 < int(notes(slurm, "patience")[0]) < warned  # torchrun has killed what hangs before SLURM kills all


def test_a_run_with_a_checkpoint_goes_on(slurm: dict[str, str]) -> None:
    latest = Path(slurm["NOTES"]) / "mine" / "big" / "checkpoints" / "latest"
    latest.parent.mkdir(parents=True)
    latest.touch()
    job = submit(slurm | {"INSTEAD": "true", "RUNS": "mine", "VERB": "pretrain"}, "big", "-c", "run.yaml")
    assert end(job)[0] == 0
    after = notes(slurm, "srun")[notes(slurm, "srun").index("cxr_mtl") + 1 :]
    assert after == ["pretrain", "-c", "run.yaml", "-s", "name=big", "-s", "output=mine", "--resume"]


def test_the_end_of_the_allocation_stops_the_ranks_and_requeues_the_job(slurm: dict[str, str]) -> None:
    job = submit(slurm | {"INSTEAD": "idle"}, "big", "-c", "run.yaml")
    wait_for(Path(slurm["NOTES"]) / "srun.pid")
    job.send_signal(signal.SIGUSR1)
    assert end(job)[0] == 0
    assert notes(slurm, "scancel") == ["--signal=TERM", f"{JOB}.0"]
    assert notes(slurm, "scontrol")[3:] == ["requeue", JOB]


def test_what_goes_wrong_by_itself_is_not_requeued(slurm: dict[str, str]) -> None:
    assert end(submit(slurm | {"INSTEAD": "fail"}, "big", "-c", "run.yaml"))[0] == 3
    assert "requeue" not in notes(slurm, "scontrol")
    code, said = end(submit(slurm))
    assert code != 0
    assert said.endswith("give the name of the run first, then the arguments of cxr-mtl train\n")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_is_stopped_and_queued_again(slurm: dict[str, str], tmp_path: Path) -> None:
    """In earnest but for SLURM: one node, two ranks, stopped before the allocation ends and run once more."""
    folder = draw_films(tmp_path / "study")
    args = ("big", "-c", str(run_file(folder, "any", epochs=400)))
    here = {"SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2", "HOSTS": socket.gethostname()}
    slurm |= here | {"RUNS": str(folder / "runs")}
    job = submit(slurm, *args)
    try:
        wait_for_step(job, folder, "big", 10)
        job.send_signal(signal.SIGUSR1)
        finish(job)
    finally:
        if job.poll() is None:
            kill_all(job)
    assert notes(slurm, "scontrol")[3:] == ["requeue", JOB]
    stopped_at = log(folder, "big")[-1]["step"]
    saved = latest(folder, "big")
    assert saved.endswith(f"step{stopped_at:06d}")
    code, told = finish(submit(slurm, *args, "-s", f"train.epochs={int(saved[5:9])}"))
    assert code == 0, told
    steps = [entry["step"] for entry in log(folder, "big") if entry["event"] == "step"]
    assert steps == list(range(1, steps[-1] + 1))  # it went on, and did not begin anew
    assert steps[-1] >= stopped_at


@pytest.mark.slow
def test_deepspeeds_launcher_reads_the_hostfile() -> None:
    code = "import sys; from deepspeed.launcher.runner import fetch_hostfile as f; print(dict(f(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(configs_dir() / "cluster" / "hostfile")]
    environment = ENVIRONMENT | {"DS_ACCELERATOR": "cpu"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.strip().splitlines()[-1] == "{'node-1': 8, 'node-2': 8}"
