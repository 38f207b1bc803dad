"""What ends a run ends it in one line, on all ranks, and leaves a checkpoint to go on from."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

import pytest
from runs import (
    DEEPSPEED,
    ENVIRONMENT,
    TORCHRUN,
    disturbed,
    draw_films,
    finish,
    latest,
    log,
    ranks_of,
    run_file,
    start,
    train,
    wait_for_step,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_films(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """A run file of two ranks, of whose run two epochs are done."""
    file = run_file(folder, "two", epochs=2)
    train("-c", str(file), launcher=TORCHRUN)
    return file


def test_full_disk_and_then_a_damaged_checkpoint(folder: Path, two: Path) -> None:
    checkpoints = folder / "runs" / "two" / "checkpoints"
    before = {f.name for f in checkpoints.rglob("*")}
    # Of the second rank alone: the first must not wait for it for ever.
    environment = ENVIRONMENT | {"LIMIT_RANK": "1", "LIMIT": "400000"}
    more = ("-c", str(two), "--resume", "-s", "train.epochs=3")
    code, told = finish(start(*more, launcher=disturbed(TORCHRUN), environment=environment))
    assert code == 1  # torchrun's own, whatever its ranks' was
    (line,) = told
    assert line.startswith("EngineError: The checkpoint")
    assert "epoch0003 could not be written: " in line
    assert {f.name for f in checkpoints.rglob("*")} == before
    assert latest(folder, "two") == "epoch0002"
    # There is room again, but the newest checkpoint has lost its end.
    file = next((checkpoints / "epoch0002").glob("zero_pp_rank_1*"))
    file.write_bytes(file.read_bytes()[:1000])
    told = train(*more, launcher=TORCHRUN)
    assert [line for line in told if "has 1000 bytes instead of" in line and line.endswith("going on from epoch0001.")]
    assert latest(folder, "two") == "epoch0003"
    assert [e["epoch"] for e in log(folder, "two") if e["event"] == "epoch"] == [1, 2, 3]


def test_full_disk_under_the_bundle(folder: Path, two: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    code, told = finish(start("-c", str(run_file(folder, "small", epochs=1)), before=limit))
    assert code == 2
    (line,) = told
    assert line.startswith("EngineError: best/ was not written: ")
    assert not [p.name for p in (folder / "runs" / "small").iterdir() if p.name.startswith(("best", "checkpoints"))]


def test_loss_that_is_no_number_and_signals(folder: Path) -> None:
    """One process: SIGUSR1 saves and stops; going on at an absurd rate does not touch what was saved."""
    file = str(run_file(folder, "alone", epochs=400, precision="fp32"))
    process = start("-c", file)
    wait_for_step(process, folder, "alone", 10)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGUSR1)
    code, told = finish(process)
    assert code == 128 + signal.SIGUSR1
    (line,) = told
    assert line.startswith("Stopped: Stopped by SIGUSR1 after step ")
    assert line.endswith("Go on with --resume.")
    saved = latest(folder, "alone")
    stopped_at = int(line.split("step ")[1].split(",")[0])
    assert log(folder, "alone")[-1]["step"] == stopped_at
    assert saved.endswith(f"step{stopped_at:06d}")
    code, told = finish(start("-c", file, "--resume", "-s", "train.lr=1e30"))
    assert code == 2
    (line,) = told
    assert line.startswith("EngineError: The loss is no longer a number")
    assert "go on with --resume" in line
    assert latest(folder, "alone") == saved
    epochs = int(saved[5:9])
    train("-c", file, "--resume", "-s", f"train.epochs={epochs}")
    assert latest(folder, "alone") == f"epoch{epochs:04d}"


@pytest.mark.parametrize("launcher", [TORCHRUN, DEEPSPEED])
def test_a_killed_rank_ends_the_others_in_a_line(folder: Path, launcher: tuple[str, ...]) -> None:
    name = f"lost_{launcher[0]}"
    process = start("-c", str(run_file(folder, name, epochs=400, zero_stage=2)), launcher=launcher)
    wait_for_step(process, folder, name, 10)
    for worker in ranks_of(process, 1):
        worker.kill()
    killed = time.monotonic()
    code, told = finish(process)
    assert code != 0
    assert time.monotonic() - killed < 60
    (line,) = told
    assert line.startswith("EngineError: Another rank has gone")
    assert line.endswith("go on with --resume.")
    assert latest(folder, name) >= "epoch0001"


def test_launchers_sigterm_is_a_stop(folder: Path) -> None:
    process = start("-c", str(run_file(folder, "term", epochs=400)), launcher=TORCHRUN)
    wait_for_step(process, folder, "term", 10)
    process.terminate()
    code, told = finish(process)
    assert code != 0
    (line,) = told
    assert line.startswith("Stopped: Stopped by SIGTERM after step ")
    assert "step" in latest(folder, "term")
