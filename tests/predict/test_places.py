"""The shares of clients that turn each other away."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack

import pytest

from cxr_mtl.predict import places
from cxr_mtl.predict.places import BURST, REGAIN, Places


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(places.time, "monotonic", lambda: now[0])
    return now


def test_half_as_many_at_a_refusal_and_one_more_after_a_while(clock: list[float]) -> None:
    held = Places(8)
    shares = []
    for later in (0, BURST / 2, BURST, BURST, BURST, BURST, REGAIN, REGAIN, 100 * REGAIN):
        clock[0] += later
        if later <= BURST:
            held.turned_away()
        shares.append(held._now())
    assert shares == [4, 4, 2, 1, 1, 1, 2, 3, 8]


def test_so_many_are_under_way_and_the_next_waits(clock: list[float]) -> None:
    held, got = Places(4), threading.Event()
    held.turned_away()

    def ask() -> None:
        with held.one() as waited:
            assert waited == 3.0
            got.set()

    waiting = threading.Thread(target=ask)
    with held.one(), ExitStack() as second:
        assert second.enter_context(held.one()) == 0.0
        waiting.start()
        assert not got.wait(0.05)
        clock[0] += 3.0
        second.close()
        assert got.wait(5)
    waiting.join()


@pytest.mark.parametrize("clients", [2, 3, 5])
def test_clients_that_do_not_know_of_each_other_come_to_equal_shares(clock: list[float], clients: int) -> None:
    """Each wants 6 of 8 places; whoever wants more than are left is turned away, in an order that changes."""
    rng = random.Random(0)
    held = [Places(6) for _ in range(clients)]
    answered = [0] * clients
    for _ in range(600):
        clock[0] += 1.0
        left = 8
        for number in rng.sample(range(clients), clients):
            wants = held[number]._now()
            if wants > left:
                held[number].turned_away()
            answered[number] += min(wants, left)
            left -= min(wants, left)
    assert min(answered) > 0.7 * max(answered)
    assert sum(answered) > 0.6 * 8 * 600
