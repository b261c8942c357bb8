"""How far the search is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def counting(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each of ``total`` pieces of work, from any thread."""
    lock = Lock()
    done, started = 0, time.monotonic()
    last_line = started
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance() -> None:
            nonlocal done, last_line
            with lock:
                done += 1
                bar.advance(task)
                now = time.monotonic()
                if console.is_terminal or now - last_line < SECONDS_BETWEEN_LINES:
                    return
                last_line = now
                rate = done / (now - started)
                console.print(
                    f"{what} {done}/{total}, {rate:.1f} a second, {(total - done) / rate:.0f} s "
                    "left",
                    highlight=False,
                )

        yield advance
