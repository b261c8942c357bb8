"""How far a gallery is: files counted, then pictures read, with the time that is left."""

from __future__ import annotations

import time

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


class TwoSteps(Progress):
    """A bar for each step on a terminal, a plain line every ten seconds elsewhere.

    Args:
        first, second: what is counted in each step.
    """

    def __init__(self, console: Console, first: str, second: str) -> None:
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
        self._names = (first, second)
        self._steps = [self.add_task(name, total=None, visible=False) for name in self._names]
        self._done = [0, 0]
        self._last_line = time.monotonic()

    def advance_first(self, total: int | None = None) -> None:
        """One more of the first step."""
        self._count(0, total)

    def advance_second(self, total: int | None = None) -> None:
        """One more of the second step."""
        self._count(1, total)

    def _count(self, step: int, total: int | None) -> None:
        self._done[step] += 1
        self.update(self._steps[step], advance=1, total=total, visible=True)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            of = "" if total is None else f" of {total}"
            self.console.print(f"{self._names[step]} {self._done[step]}{of}", highlight=False)
