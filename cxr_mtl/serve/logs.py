"""TorchServe's log files, and what they say of a failure.

``ts_log.log`` is the front end's, ``model_log.log`` the workers', ``access_log.log`` says who asked what, and
``console.log`` holds what was printed before there were logs. None holds a request's contents.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

CONSOLE = "console.log"
_WORKERS, _FRONT_END = "model_log.log", "ts_log.log"
_FATAL = ("Backend worker process died", "Failed to load model")
_CAUSE = re.compile(r"(?:^| - )(?:[\w.]+\.)?\w*(?:Error|Exception|Exit): (.+)$|\[ERROR\] \S+ \S+ - (.+)$")


def fresh_logs(state_dir: Path) -> Path:
    """An empty log folder; the last server's logs stay beside it until the next start."""
    log_dir, previous = state_dir / "logs", state_dir / "logs.previous"
    if log_dir.exists():
        shutil.rmtree(previous, ignore_errors=True)
        log_dir.rename(previous)
    log_dir.mkdir(mode=0o700)
    return log_dir


def mark(log_dir: Path) -> Mapping[str, int]:
    """How far the logs are written, for ``cause`` to look behind."""
    return {path.name: path.stat().st_size for path in log_dir.iterdir() if path.is_file()}


def failed_to_load(log_dir: Path) -> bool:
    """Whether a worker died or an archive was refused."""
    return any(sign in _read(log_dir / name) for name in (_WORKERS, _FRONT_END) for sign in _FATAL)


def cause(log_dir: Path, since: Mapping[str, int] | None = None) -> str:
    """The last line of the logs that says why, the workers' first; empty where none does.

    Args:
        log_dir: the server's.
        since: what ``mark`` gave before the failure; None to read from the beginning.
    """
    behind = since or {}
    for name in (_WORKERS, _FRONT_END, CONSOLE):
        text = _read(log_dir / name, behind.get(name, 0))
        found = [match for line in text.splitlines() if (match := _CAUSE.search(line))]
        if found:
            return (found[-1][1] or found[-1][2]).strip()
    lines = [line.strip() for line in _read(log_dir / CONSOLE, behind.get(CONSOLE, 0)).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _read(path: Path, offset: int = 0) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(offset if offset <= path.stat().st_size else 0)  # A log that was rolled starts anew.
        return file.read().decode(errors="replace")
