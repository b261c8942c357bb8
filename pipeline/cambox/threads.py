"""What threads share: how many pay, a stream's results in its order, and the time by stage."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import islice
from typing import Literal, TypeVar

Stage = Literal["read", "decode", "forward", "boxes", "write"]
STAGES: tuple[Stage, ...] = ("read", "decode", "forward", "boxes", "write")
# By glibc's numbers in <malloc.h>: M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, in bytes. The
# last is the most that all its versions take.
_MALLOC_SETTINGS = ((-1, 1 << 26), (-2, 1 << 24), (-3, 1 << 25))

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cpus() -> int:
    """The CPUs that this process may use; the machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory of images that it is done with, for the next ones.

    It would else go back to the system with every few images, and come again as fresh pages, which
    the kernel clears one by one: a quarter of the time of decoding a photograph. At most 64 MiB
    of each thread's are kept.

    Returns:
        Whether the C library does so; others than glibc are asked for nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in _MALLOC_SETTINGS)


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


class Stopwatch:
    """Adds up seconds by stage, from any thread.

    Stages overlap, and decode and boxes run in several threads, so their sum may exceed the time
    that has passed.
    """

    def __init__(self) -> None:
        self.seconds: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Count the time inside of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start

    def measured(self, stage: Stage, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, counting the time that each takes to come."""
        iterator = iter(items)
        while True:
            with self.measure(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
