"""How far a measurement is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from threading import Lock

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cambox.console import SECONDS_BETWEEN_LINES, say


class Countdown(Progress):
    """Shows which part is measured, its rate so far, and the seconds left; a context manager.

    Args:
        seconds: of all parts together.
    """

    def __init__(self, console: Console, seconds: float) -> None:
        super().__init__(
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self.add_task("", total=seconds)
        self._seconds = seconds
        self._counting = Lock()
        self._part = self._line = ""
        # Of the parts before, and of the one that is measured: loading in between does not count.
        self._before = 0.0
        self._began = self._heard = self._said = time.monotonic()

    def tell(self, part: str, rate: float) -> None:
        """So many images a second up to now; from any thread."""
        with self._counting:
            now = time.monotonic()
            if part != self._part:
                self._say_line()
                self._before += self._heard - self._began
                self._part, self._began, self._said = part, now, now
            self._heard = now
            passed = min(self._before + now - self._began, self._seconds)
            left = self._seconds - passed
            self._line = f"{part}: {rate:,.1f} images/s · {left:.0f} s left"
            self.update(self._task, completed=passed, description=self._line)
            if now - self._said > SECONDS_BETWEEN_LINES:
                self._said = now
                self._say_line()

    def stop(self) -> None:
        """The last part has ended."""
        super().stop()
        self._say_line()

    def _say_line(self) -> None:
        if self._line and not self.console.is_terminal:
            say(self.console, self._line)
        self._line = ""
