"""Finding, and not ending, processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cxr_mtl.errors import ServeError
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.state import MAIN_CLASS, TEMP_PREFIX, ServerInfo, State, load_state, only_starter, save_state


def state(folder: Path, process: psutil.Process, *, created: float | None = None) -> State:
    temp = folder / f"{TEMP_PREFIX}x"
    temp.mkdir(exist_ok=True)
    keys = folder / "key_file.json"
    keys.write_text("{}")
    urls = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3/metrics")
    info = ServerInfo(*urls, keys, process.pid, folder / "logs", ("cxr_mtl",))
    return State(info, process.create_time() if created is None else created, temp)


@pytest.fixture
def pretender() -> psutil.Process:
    """A process whose command line names TorchServe's main class."""
    code = "import time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, MAIN_CLASS])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = state(tmp_path, psutil.Process())
    save_state(tmp_path, saved)
    assert load_state(tmp_path) == saved
    assert load_state(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"info": {}, "created": 1, "temp": "/"}'])
def test_a_damaged_state_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.json").write_text(content)
    with pytest.raises(ServeError, match="is damaged"):
        load_state(tmp_path)


def test_a_pid_that_passed_to_another_process_is_left_alone(tmp_path: Path, pretender: psutil.Process) -> None:
    for other in (state(tmp_path, psutil.Process(os.getpid())), state(tmp_path, pretender, created=1.0)):
        assert other.process() is None
        save_state(tmp_path, other)
        assert torchserve.status(tmp_path) is None
        assert torchserve.stop(tmp_path) is False
        assert psutil.pid_exists(other.info.pid)
        assert not other.temp.exists()
        assert not other.info.key_file.exists()
        assert load_state(tmp_path) is None


def test_stop_ends_what_was_started_here(tmp_path: Path, pretender: psutil.Process) -> None:
    save_state(tmp_path, state(tmp_path, pretender))
    found = torchserve.status(tmp_path)
    assert found is not None
    assert not found.ready
    assert torchserve.stop(tmp_path) is True
    assert not pretender.is_running() or pretender.status() == psutil.STATUS_ZOMBIE
    assert torchserve.stop(tmp_path) is False


def test_stop_removes_no_folder_that_is_not_a_servers(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    saved = state(tmp_path, psutil.Process())
    save_state(tmp_path, State(saved.info, saved.created, precious))
    torchserve.stop(tmp_path)
    assert precious.is_dir()


def test_a_store_without_the_archive_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="is not a folder"):
        torchserve.start(tmp_path / "none")
    with pytest.raises(ServeError, match=r"holds no \.mar archive"):
        torchserve.start(tmp_path)
    (tmp_path / "a.mar").write_bytes(b"")
    with pytest.raises(ServeError, match=r"holds no b\.mar\. There are: a"):
        torchserve.start(tmp_path, models=["b"])


def test_two_starts_at_once_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "a.mar").write_bytes(b"")
    state_dir = torchserve.state_dir_of(tmp_path)
    state_dir.mkdir()
    with only_starter(state_dir), pytest.raises(ServeError, match="is being started"):
        torchserve.start(tmp_path)
    with only_starter(state_dir):
        pass
