"""Results come in order, and no more is begun than is wanted."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cambox.threads import in_order


def test_results_come_in_order_and_not_far_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    first_may_go = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert first_may_go.wait(10)
        return number * number

    with ThreadPoolExecutor(4) as pool:
        results = in_order(pool, work, items(), 3)
        threading.Timer(0.1, first_may_go.set).start()
        assert next(results) == 0
        assert len(taken) == 4
        assert list(results) == [number * number for number in range(1, 20)]


def test_what_was_begun_is_waited_for_and_the_rest_is_not_begun() -> None:
    begun, ended = [], []
    go_on = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            raise ValueError("the first")
        begun.append(number)
        if number <= 2:
            go_on.wait(10)
        ended.append(number)
        return number

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, work, range(9), 6)
        threading.Timer(0.2, go_on.set).start()
        with pytest.raises(ValueError, match="the first"):
            list(results)
        assert sorted(begun) == sorted(ended)
        assert len(begun) < 8


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_glibc_takes_the_settings_that_keep_memory() -> None:
    program = "from cambox.threads import keep_freed_memory as keep; raise SystemExit(not keep())"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
