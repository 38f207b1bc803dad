"""Real processes that share a lock; flock is per open file, so two of them in one process would do as well."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cxr_mtl.predict import neighbours
from cxr_mtl.predict.neighbours import Neighbours, neighbours_here

CORES = 3

HOLDER = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(file, getattr(fcntl, sys.argv[2]))
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "cores").touch()
    return tmp_path / "cores"


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(neighbours, "num_cores", lambda: CORES)
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def hold(file: Path, lock: str) -> subprocess.Popen[str]:
    """Another process that has the lock now."""
    command = [sys.executable, "-c", HOLDER, str(file), lock]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def threads_of_a_pass(ours: Neighbours) -> int:
    with ours.all_cores():
        return torch.get_num_threads()


def test_the_only_busy_one_has_all_cores_for_a_pass(file: Path) -> None:
    ours = Neighbours(file)
    with ours.busy():
        assert [threads_of_a_pass(ours), torch.get_num_threads(), threads_of_a_pass(ours)] == [CORES, 1, CORES]


def test_beside_a_busy_neighbour_each_keeps_its_own(file: Path) -> None:
    ours, other = Neighbours(file), hold(file, "LOCK_SH")
    try:
        with ours.busy():
            assert [threads_of_a_pass(ours), threads_of_a_pass(ours)] == [1, 1]
    finally:
        end(other)
    with ours.busy():
        assert threads_of_a_pass(ours) == CORES, "one that died is busy no more"


def test_who_is_busy_is_seen_by_the_others(file: Path) -> None:
    ours, theirs = Neighbours(file), Neighbours(file)
    with ours.busy(), theirs.busy():
        assert (threads_of_a_pass(ours), threads_of_a_pass(theirs)) == (1, 1)
    with theirs.busy():
        assert threads_of_a_pass(theirs) == CORES


def test_an_error_gives_the_cores_back(file: Path) -> None:
    ours, theirs = Neighbours(file), Neighbours(file)
    with pytest.raises(ZeroDivisionError), ours.busy(), ours.all_cores():
        _ = 1 / 0
    assert torch.get_num_threads() == 1
    with theirs.busy():
        assert threads_of_a_pass(theirs) == CORES


def test_a_neighbour_that_hangs_with_all_cores_holds_nobody_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PATIENCE", 0.5)
    ours, other = Neighbours(file), hold(file, "LOCK_EX")
    try:
        other.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with ours.busy():
            waited = time.monotonic() - started
            assert threads_of_a_pass(ours) == 1
            assert time.monotonic() - started < waited + neighbours.PATIENCE, "waited for once, and not for each pass"
        assert waited >= neighbours.PATIENCE
    finally:
        end(other)


def test_a_request_waits_for_a_pass_that_has_all_cores(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PATIENCE", 60.0)
    ours, other = Neighbours(file), hold(file, "LOCK_EX")
    assert other.stdin
    other.stdin.close()  # it ends some milliseconds later
    with ours.busy():
        assert threads_of_a_pass(ours) == CORES
    other.wait()
    other.stdout.close()  # type: ignore[union-attr]


def test_where_no_file_can_be_shared_each_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours = neighbours_here()
    assert ours is not None
    (made,) = tmp_path.iterdir()
    assert made.stat().st_mode & 0o777 == 0o600
    made.unlink()
    made.symlink_to(tmp_path / "elsewhere")
    assert neighbours_here() is None, "a link is another's doing"
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    assert neighbours_here() is None


def test_cores_are_counted_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Neighbours(file)
    monkeypatch.setattr(neighbours, "num_cores", lambda: CORES + 1)
    with ours.busy():
        assert threads_of_a_pass(ours) == CORES == ours.cores
