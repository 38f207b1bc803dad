"""Finding, and not ending, processes."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cxr_mtl.errors import ServeError
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.logs import fresh_logs
from cxr_mtl.serve.settings import free_ports, make_settings
from cxr_mtl.serve.state import (
    CONFIG_FILE,
    MAIN_CLASS,
    TEMP_PREFIX,
    ServerInfo,
    State,
    load_state,
    make_private,
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


LAUNCHER = """\
import os, pathlib, signal, subprocess, sys, time
front_end = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *sys.argv])
pathlib.Path("front_end").write_text(str(front_end.pid))
if pathlib.Path("interrupt").exists():
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
pathlib.Path(os.environ["TMPDIR"], ".model_server.pid").write_text(str(front_end.pid))
"""


@pytest.mark.parametrize("interrupt", [True, False], ids=["ctrl_c", "full_disk"])
def test_a_start_that_breaks_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: bool
) -> None:
    """A pretended launcher, which python finds in the folder that it is started in, leaves a front end behind."""
    state_dir, temps = tmp_path / "state", tmp_path / "temps"
    (state_dir / "ts").mkdir(parents=True)
    temps.mkdir()
    (state_dir / "ts/__init__.py").touch()
    (state_dir / "ts/model_server.py").write_text(LAUNCHER)
    write_archive(tmp_path / "a.mar", "a", "1.0")
    if interrupt:
        (state_dir / "interrupt").touch()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torchserve, "save_state", full)
    monkeypatch.setattr(torchserve, "find_java", lambda java: tmp_path)
    monkeypatch.setattr(torchserve.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tempfile, "tempdir", str(temps))
    with pytest.raises(KeyboardInterrupt if interrupt else OSError):
        torchserve.start(tmp_path, port=0, state_dir=state_dir, wait=1)
    front_end = int((state_dir / "front_end").read_text())
    assert stat.S_IMODE((state_dir / "front_end").stat().st_mode) == 0o600, "so are the logs"
    psutil.wait_procs([psutil.Process(front_end)] if psutil.pid_exists(front_end) else [], timeout=5)
    assert not psutil.pid_exists(front_end) or psutil.Process(front_end).status() == psutil.STATUS_ZOMBIE
    assert not list(temps.iterdir())
    assert load_state(state_dir) is None


def test_a_state_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(tmp_path, 1)
    save_state(tmp_path, before)

    def cut(path: Path, text: str, **_: object) -> None:
        path.write_bytes(text[:9].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(OSError, match="No space"):
        save_state(tmp_path, State(before.info, tmp_path))
    assert load_state(tmp_path) == before
    assert not list(tmp_path.glob(".*.part"))


def test_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    """In a folder that was there and open, under a umask that takes nothing away."""
    umask = os.umask(0)
    try:
        folder = tmp_path / "state"
        folder.mkdir()
        make_private(folder)
        save_state(folder, state(tmp_path, 1))
        fresh_logs(folder)
        make_settings(*free_ports(3), 1, 60).write(folder / CONFIG_FILE)
        with only_starter(folder):
            pass
    finally:
        os.umask(umask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    private = {"server.json": 0o600, CONFIG_FILE: 0o600, "logs": 0o700}
    assert modes == {"state": 0o700, **private, "lock": 0o666}, "the lock is empty"


def test_a_folder_of_another_user_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cluster's mount is root's and open to all: only its owner could shut it."""
    tmp_path.chmod(0o777)
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    make_private(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o777


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
