"""How long each part of a measurement may take, and who is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

# Called with the name of what is measured and its images a second so far; from any thread.
Tell = Callable[[str, float], None]

# Of the time that a user gives; what it means is the whole run.
SHARES = {"storage": 0.2, "decode": 0.15, "network": 0.15, "boxes": 0.1, "end to end": 0.4}


def until(seconds: float) -> Iterator[float]:
    """The seconds passed, again and again, at least once, until they are so many."""
    start = time.perf_counter()
    passed = 0.0
    while True:
        yield passed
        passed = time.perf_counter() - start
        if passed >= seconds:
            return
