"""Thousands of damaged films, read in a process that may crash or hang without taking the tests along.

A failure names the case; ``python tests/data/fuzz_child.py NUMBER 1`` reads it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_cases import MUTATIONS, case, files

CHILD = Path(__file__).with_name("fuzz_child.py")
FAST, MANY = 500, 6000


def run(first: int, count: int, seconds: float) -> dict[str, Any]:
    """What came of the cases; a failure that names the last of them if anything went wrong."""
    command = [sys.executable, "-X", "faulthandler", str(CHILD), str(first), str(count)]
    repository = str(CHILD.parents[2])
    environment = os.environ | {"PYTHONPATH": repository, "OMP_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment, cwd=repository, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode()
        pytest.fail(f"{count} cases from {first} on took more than {seconds:.0f} s; last: {said.splitlines()[-1:]}")
    lines = ended.stdout.splitlines()
    if ended.returncode != 0:  # negative: the signal that ended it; 14 is the alarm of a case that hangs
        pytest.fail(f"case {lines[-1:]} ended the process with {ended.returncode}: {ended.stderr[-600:]}")
    assert ended.stderr == ""  # no decoder says anything by itself
    assert len(lines) == count + 1
    return dict(json.loads(lines[-1]))


def check(came: dict[str, Any], count: int) -> None:
    assert sum(came["came"].values()) == count
    assert came["grown_mb"] < 400  # the largest sizes that damaged heads state, within the limit of pixels
    assert came["apart_mb"] < 600
    assert came["slowest"][0] < 5
    assert 0.05 < came["came"]["read"] / count < 0.6  # most damage matters, some does not
    assert {"corrupt", "truncated", "unsupported"} <= set(came["came"])


def test_hundreds_of_damaged_films_are_read_or_refused() -> None:
    check(run(0, FAST, 120), FAST)


@pytest.mark.slow
def test_thousands_of_damaged_films_are_read_or_refused() -> None:
    check(run(FAST, MANY, 280), MANY)


def test_cases_are_the_same_every_time_and_of_every_kind() -> None:
    assert case(77) == case(77)
    done = [case(number)[0].split(", ") for number in range(FAST)]
    assert {kind for kind, _ in done} == set(files())
    assert {mutation for _, mutation in done} == {mutation.__name__.strip("_") for mutation in MUTATIONS}


def test_the_watch_sees_a_crash_a_hang_and_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: each way for a decoder to fail must fail the test."""
    for body, says in (
        ("import os, signal; print('3 boom', flush=True); os.kill(os.getpid(), signal.SIGSEGV)", "-11"),
        ("import signal as s; print('3 boom', flush=True); s.setitimer(s.ITIMER_REAL, 0.1); s.pause()", "-14"),
        ("import time; print('3 boom', flush=True); time.sleep(60)", "more than 1 s"),
        ("raise AssertionError('not finite')", "not finite"),
    ):
        script = tmp_path / "child.py"
        script.write_text(body)
        monkeypatch.setattr(sys.modules[__name__], "CHILD", script)
        with pytest.raises(pytest.fail.Exception, match=says):
            run(0, 1, 1 if "1 s" in says else 30)
    script.write_text("import sys; print('x'); print('{}'); print('libjpeg says', file=sys.stderr)")
    with pytest.raises(AssertionError):
        run(0, 1, 30)


def test_good_files_cover_what_is_said_to_be_read() -> None:
    from cxr_mtl.data.read import read_image

    for kind, data in files().items():
        film = read_image(data)
        assert film.format == kind.split()[0]
        assert np.ptp(film.pixels) > 0.9, kind
