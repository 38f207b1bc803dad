"""What is remembered of a running server, so that another command can find, ask and end it.

The state folder (``<model store>/.serve``) holds ``server.json``, ``key_file.json``, ``config.properties`` and
``logs/``; only its owner can read it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cxr_mtl.errors import ServeError

MAIN_CLASS = "org.pytorch.serve.ModelServer"
TEMP_PREFIX = "cxr-mtl-serve-"
KEYS_FILE = "key_file.json"
CONFIG_FILE = "config.properties"
DRAIN_MARK = "draining"
"""A file that is there while no new request is to be taken; the proxy's script looks for it."""
_STATE_FILE = "server.json"
_LOCK = "lock"
_LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Where a server is. ``models`` are the names it was started with; the logs are in ``log_dir``."""

    url: str
    management_url: str
    metrics_url: str
    key_file: Path
    pid: int
    log_dir: Path
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A server that was started: where it is, and the temporary folder that is its own."""

    info: ServerInfo
    temp: Path

    def process(self) -> psutil.Process | None:
        """The front end, or None once it ended.

        A pid may have passed to another process since. Ours is known by the configuration file it was started with, not
        by its time of birth, which moves when the system's clock is set.
        """
        try:
            process = psutil.Process(self.info.pid)
            config = str(self.info.key_file.with_name(CONFIG_FILE))
            ours = {MAIN_CLASS, config} <= set(process.cmdline())
            return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def make_private(state_dir: Path) -> None:
    """Makes the folder, or shuts one that is there to all but its owner.

    A mount of a cluster may be another's, who alone could shut it; what is written into it is private by itself.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if state_dir.stat().st_uid == os.geteuid():
        state_dir.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Writes a file for its owner alone, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        part.touch(mode=0o600, exist_ok=False)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def only_starter(state_dir: Path) -> Iterator[None]:
    """Keeps a second start for the same folder out; the system lets go of the lock even where we are killed.

    Raises:
        ServeError: another process is starting one.
    """
    with (state_dir / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ServeError(f"A server for {state_dir} is being started.", hint="Wait for that one.") from None
        yield


def is_being_changed(state_dir: Path) -> bool:
    """Whether somebody starts the server of this folder, or rolls it over, at this moment.

    Linux lists who holds locks; to try the lock ourselves could keep out a start that comes in the same moment.
    """
    try:
        lock = (state_dir / _LOCK).stat()
        holders = re.findall(rf" (\d+) \w+:\w+:{lock.st_ino} ", _LOCKS.read_text(encoding="ascii"))
        return any(_has_open(Path("/proc", pid, "fd"), lock) for pid in holders)
    except OSError:  # no such list here, or no such folder
        return False


def _has_open(handles: Path, lock: os.stat_result) -> bool:
    """Whether a process does; a number alone may be another disk's, which the list may name otherwise than stat."""
    for handle in handles.iterdir():
        with suppress(FileNotFoundError):  # closed this moment
            if os.path.samestat(handle.stat(), lock):
                return True
    return False


def save_state(state_dir: Path, state: State) -> None:
    """Writes the state beside the keys."""
    info = {name: getattr(state.info, name) for name in ServerInfo.__slots__}
    body = {"info": info, "temp": state.temp}
    write_private(state_dir / _STATE_FILE, json.dumps(body, indent=1, default=str) + "\n")


def load_state(state_dir: Path) -> State | None:
    """The state of the last server started for this folder; None where none was, or it was ended.

    Raises:
        ServeError: the file is not what ``save_state`` wrote.
    """
    path = state_dir / _STATE_FILE
    if not path.exists():
        return None
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return State(_info(body["info"]), Path(body["temp"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise ServeError(f"{path} is damaged.", hint="Remove it once no TorchServe of yours runs.") from None


def forget_state(state_dir: Path, temp: Path) -> None:
    """Removes an ended server's keys, state, marks and temporary folder; its logs stay."""
    if temp.name.startswith(TEMP_PREFIX):
        shutil.rmtree(temp, ignore_errors=True)
    for name in (KEYS_FILE, _STATE_FILE, DRAIN_MARK):
        (state_dir / name).unlink(missing_ok=True)


def _info(body: Mapping[str, Any]) -> ServerInfo:
    return ServerInfo(
        url=body["url"],
        management_url=body["management_url"],
        metrics_url=body["metrics_url"],
        key_file=Path(body["key_file"]),
        pid=int(body["pid"]),
        log_dir=Path(body["log_dir"]),
        models=tuple(body["models"]),
    )
