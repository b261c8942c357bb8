"""How far a command is that counts: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[[int], None]
"""Called with the total after each one that is done, from any thread."""


class Steps(Progress):
    """The steps of a command, one after the other."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._last_line = time.monotonic()
        self._counting = Lock()

    def step(self, name: str) -> Advance:
        """A step that is shown from its first one on."""
        task = self.add_task(name, total=None, visible=False)
        start = time.monotonic()
        done = 0

        def advance(total: int) -> None:
            nonlocal done
            with self._counting:
                done += 1
                self.update(task, completed=done, total=total, visible=True)
                now = time.monotonic()
                if self.console.is_terminal or now - self._last_line < SECONDS_BETWEEN_LINES:
                    return
                self._last_line = now
                left = (now - start) / done * (total - done)
                self.console.print(
                    f"{name} {done} of {total} · {done / (now - start):.1f}/s · {left:.0f} s left",
                    highlight=False,
                )

        return advance
