"""Work done ahead of those who wait for it, in order and within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(
    work: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    give_up: Callable[[], None] = lambda: None,
) -> Generator[Made]:
    """Results in the order of their items, made by threads; at most ``ahead`` are made or under way and not taken.

    Who takes no more of them, closes it, or meets an error of the work leaves nothing running; work that may take long
    is told by ``give_up`` that nobody waits for it.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BaseException:  # a Ctrl-C, and the end of this generator before its time
        give_up()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
