"""When nothing is under way any more. Live: test_survive."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import psutil
import pytest

from cxr_mtl.serve import drain
from cxr_mtl.serve.management import ModelStatus


class Says:
    """A management port that says always the same."""

    def __init__(self, *pids: int) -> None:
        states = ("READY",) * len(pids)
        self.said = ModelStatus("cxr_mtl", "1.0", True, states, pids, ("",) * len(pids), len(pids), 0, 64, 0.0)

    def models(self) -> tuple[ModelStatus, ...]:
        return (self.said,)


def idle(management: Any, wait: float) -> bool:
    return drain.wait_until_idle(management, lambda _: True, wait)


def test_a_worker_that_waits_for_a_process_of_its_own_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where gdcm decodes a film: the worker itself uses no processor meanwhile."""
    monkeypatch.setattr(drain, "_QUIET", 0.2)
    waits = "sh -c 'echo; while :; do :; done'; echo; cat"
    with subprocess.Popen(["sh", "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        (child,) = psutil.Process(worker.pid).children()
        try:
            assert not idle(Says(worker.pid), 0.4)
        finally:
            os.kill(child.pid, signal.SIGKILL)
        worker.stdout.readline()
        assert idle(Says(worker.pid), 5.0)


def test_a_worker_that_has_no_process_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_QUIET", 0.0)
    assert idle(Says(-1), 1.0)
