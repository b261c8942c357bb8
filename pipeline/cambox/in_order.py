"""Work on a stream in a pool of threads, a little ahead, with the results in its order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cpus() -> int:
    """The CPUs that this process may use; the machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in groups, each but the last of ``size``."""
    remaining = iter(items)
    while group := list(islice(remaining, size)):
        yield group


def in_order(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """The result of each item, at most ``ahead`` of them before they are asked for.

    What was not begun when the caller stops, or something raises, is cancelled; what was begun is
    waited for.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        begun = [future for future in waiting if not future.cancel()]
        for future in begun:
            future.exception()
