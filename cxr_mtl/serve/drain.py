"""Waiting until requests under way are answered. TorchServe cuts them when it is ended and when a model is let go."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from cxr_mtl.errors import ServeError
from cxr_mtl.serve.management import Management, ModelStatus
from cxr_mtl.serve.state import DRAIN_MARK, load_state

_QUIET = 1.0
_TURN = 0.1


def drain(state_dir: Path, wait: float, notice: float = 0.0) -> bool:
    """Refuses new requests and waits until those under way are answered, at most ``wait`` seconds.

    TorchServe cannot close its door while it works. So a mark in the state folder tells a proxy to answer 503 from now
    on, and then the key is changed: who asks now is refused (400) before his request is queued.

    Args:
        state_dir: of the server.
        wait: seconds, ``notice`` not included.
        notice: seconds between mark and key, in which a proxy sees the mark; 0 where there is none.

    Returns:
        Whether nothing was under way any more; True where no server runs.
    """
    state = load_state(state_dir)
    if state is None or state.process() is None:
        return True
    (state_dir / DRAIN_MARK).touch(mode=0o600)
    time.sleep(notice)
    try:
        with Management(state.info) as management:
            management.renew_inference_key()
            return wait_until_idle(management, lambda _: True, wait)
    except ServeError:  # It does not even answer that: nothing to wait for.
        return False


def wait_until_idle(management: Management, chosen: Callable[[ModelStatus], bool], wait: float) -> bool:
    """Waits until the chosen models have nothing to do, at most ``wait`` seconds; returns whether they had.

    TorchServe says how many requests wait, but not how many its workers hold. A worker that holds some uses its
    processor, or one that it started does (some films are decoded in a process apart): idle is an empty queue while
    none of their clocks has moved for a second and the time a batch may wait.
    """
    end = time.monotonic() + wait
    before: dict[int, float | None] = {}
    since = time.monotonic()
    while True:
        models = [model for model in management.models() if chosen(model)]
        clocks = {one: _clock(one) for model in models for pid in model.pids for one in _family(pid)}
        now = time.monotonic()
        if clocks != before or None in clocks.values() or any(model.waiting for model in models):
            before, since = clocks, now
        if now - since >= _QUIET + max((model.batch_delay for model in models), default=0.0):
            return True
        if now >= end:
            return False
        time.sleep(_TURN)


def _family(pid: int) -> list[int]:
    """A worker and what it started; a worker that is not there yet, or no more, stands alone."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except (psutil.Error, ValueError):  # TorchServe says -1 where there is no process.
        return [pid]


def _clock(pid: int) -> float | None:
    """Seconds of processor time a process has used; None while it is held up, -1 once it is gone."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        held_up = process.status() in (psutil.STATUS_DISK_SLEEP, psutil.STATUS_STOPPED)
    except (psutil.Error, ValueError):
        return -1.0
    return None if held_up else times.user + times.system
