"""How many films a client has under way at once, so that several clients share a server that none of them owns."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

BURST = 1.0
"""Seconds in which refusals count as one: films that were sent together are turned away together."""
REGAIN = 5.0
"""Seconds after which one place more is tried."""


class Places:
    """At most ``most`` at once; half as many when a busy server turned one away, then one more every few seconds.

    Without it, who came first keeps all places that a proxy has: the next film takes the last one's at once. Halving at
    a refusal and growing by one lead clients that do not know of each other to equal shares (Chiu and Jain 1989).
    """

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._share, self._since, self._refused = float(most), time.monotonic(), -BURST
        self._free = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[float]:
        """A place, as soon as there is one; gives the seconds that were waited for it."""
        begun = time.monotonic()
        with self._free:
            while self._taken >= self._now():
                self._free.wait(REGAIN)
            self._taken += 1
        try:
            yield time.monotonic() - begun
        finally:
            with self._free:
                self._taken -= 1
                self._free.notify_all()

    def turned_away(self) -> None:
        """Tells of a refusal."""
        with self._free:
            share, now = self._now(), time.monotonic()
            if now - self._refused >= BURST:
                self._share, self._since, self._refused = max(1.0, share / 2), now, now

    def _now(self) -> int:
        return int(min(self._most, self._share + (time.monotonic() - self._since) / REGAIN))
