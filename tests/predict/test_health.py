"""A worker ends when it cannot answer any more, and only then."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from cxr_mtl.predict.health import Health


@pytest.mark.parametrize(
    ("batches", "ends"),
    [
        ([[500], [500, 500], [500]], True),
        ([[507]] * 9, True),
        ([[200, 507]], True),
        ([[507]], True),
        ([[500], [500], [200], [500], [500]], False),
        ([[500, 200]] * 5, False),
        ([[500, 422]] * 5, False),
        ([[500], [500], [], [500]], False),
    ],
)
def test_no_memory_or_the_third_batch_without_any_answer_ends_it(batches: list[list[int]], ends: bool) -> None:
    ended: list[None] = []
    health = Health(lambda: ended.append(None))
    for statuses in batches:
        health.note(statuses)
    assert len(ended) == ends, "once"


def test_a_film_without_memory_in_a_request_that_was_answered_ends_it() -> None:
    ended: list[None] = []
    health = Health(lambda: ended.append(None))
    health.note([200], ["ok", "truncated"])
    assert ended == []
    health.note([200], ["ok", "out_of_memory"])
    assert ended == [None]


def test_a_process_ends_after_what_it_said() -> None:
    code = (
        "from cxr_mtl.predict.health import Health\nhealth = Health()\n[health.note([500]) for _ in range(3)]\n"
        "print('answered', flush=True)\nimport time\ntime.sleep(20)\nprint('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15, check=False)
    assert (done.returncode, done.stdout.split()) == (-signal.SIGALRM, ["answered"])
