"""Finding, and not ending, processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cxr_mtl.errors import ServeError
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.state import (
    CONFIG_FILE,
    MAIN_CLASS,
    TEMP_PREFIX,
    ServerInfo,
    State,
    load_state,
    only_starter,
    save_state,
)


def write_archive(file: Path, name: str, version: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        manifest = {"model": {"modelName": name, "modelVersion": version}}
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))


def state(folder: Path, pid: int) -> State:
    temp = folder / f"{TEMP_PREFIX}x"
    temp.mkdir(exist_ok=True)
    keys = folder / "key_file.json"
    keys.write_text("{}")
    urls = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3/metrics")
    return State(ServerInfo(*urls, keys, pid, folder / "logs", ("cxr_mtl",)), temp)


@pytest.fixture
def pretender(tmp_path: Path) -> Iterator[psutil.Process]:
    """A process whose command line is that of the server of ``tmp_path``."""
    command = [sys.executable, "-c", "import time; time.sleep(60)", MAIN_CLASS, "-f", str(tmp_path / CONFIG_FILE)]
    with subprocess.Popen(command) as started:
        process = psutil.Process(started.pid)
        while process.cmdline() != command:
            time.sleep(0.01)
        yield process
        started.kill()


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = state(tmp_path, os.getpid())
    save_state(tmp_path, saved)
    assert load_state(tmp_path) == saved
    assert load_state(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"info": {}, "temp": "/"}'])
def test_a_damaged_state_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.json").write_text(content)
    with pytest.raises(ServeError, match="is damaged"):
        load_state(tmp_path)


def test_a_pid_that_passed_to_another_process_is_left_alone(tmp_path: Path, pretender: psutil.Process) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder, pid in ((tmp_path, os.getpid()), (elsewhere, pretender.pid)):
        other = state(folder, pid)
        assert other.process() is None
        save_state(folder, other)
        assert torchserve.status(folder) is None
        assert torchserve.stop(folder) is False
        assert psutil.pid_exists(pid)
        assert not other.temp.exists()
        assert not other.info.key_file.exists()
        assert load_state(folder) is None


def test_stop_ends_what_was_started_here(tmp_path: Path, pretender: psutil.Process) -> None:
    save_state(tmp_path, state(tmp_path, pretender.pid))
    found = torchserve.status(tmp_path)
    assert found is not None
    assert not found.ready
    assert torchserve.is_running(tmp_path)
    assert torchserve.stop(tmp_path) is True
    assert not pretender.is_running() or pretender.status() == psutil.STATUS_ZOMBIE
    assert torchserve.stop(tmp_path) is False


def test_stop_removes_no_folder_that_is_not_a_servers(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    saved = state(tmp_path, os.getpid())
    save_state(tmp_path, State(saved.info, precious))
    torchserve.stop(tmp_path)
    assert precious.is_dir()


def test_a_store_without_the_archive_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="is not a folder"):
        torchserve.start(tmp_path / "none")
    with pytest.raises(ServeError, match=r"holds no \.mar archive"):
        torchserve.start(tmp_path)
    write_archive(tmp_path / "x.mar", "a", "1.0")
    with pytest.raises(ServeError, match=r"holds no model b\. There are: a"):
        torchserve.start(tmp_path, models=["b"])


def test_two_starts_at_once_do_not_meet(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.mar", "a", "1.0")
    state_dir = torchserve.state_dir_of(tmp_path)
    state_dir.mkdir()
    with only_starter(state_dir), pytest.raises(ServeError, match="is being started"):
        torchserve.start(tmp_path)
    with only_starter(state_dir):
        pass
