"""Where the time of a shard goes, stage by stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

Stage = Literal["read", "decode", "forward", "boxes", "write"]
STAGES: tuple[Stage, ...] = ("read", "decode", "forward", "boxes", "write")
Item = TypeVar("Item")


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
