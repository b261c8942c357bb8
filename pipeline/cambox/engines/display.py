"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from cambox.console import counted, say
from cambox.engines.worklist import Outcome, ShardFailure
from cambox.shard_report import Progress

SECONDS_BETWEEN_LINES = 10.0
BAR_WIDTH = 12


class RunDisplay:
    """Counts what a run has done and shows it; use it as a context manager.

    Args:
        shards: how many there are to do.
        size: their bytes together, which the remaining time is estimated from.
    """

    def __init__(self, console: Console, shards: int, size: int) -> None:
        self.console = console
        self.shards = shards
        self.size = size
        self.finished_shards = 0
        self.failed_shards = 0
        self.samples = 0
        self.bytes_read = 0
        self.statuses: Counter[str] = Counter()
        self.started = time.monotonic()
        self.last_line = self.started
        # Shards in work advance from threads of their own.
        self.lock = threading.RLock()
        self.bar = Bar(
            BarColumn(bar_width=BAR_WIDTH),
            TaskProgressColumn(),
            TextColumn("{task.fields[display].short}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("annotate", total=size, display=self)

    def __enter__(self) -> RunDisplay:
        self.started = self.last_line = time.monotonic()
        self.bar.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.bar.stop()
        if self.bar.disable and kind is None and self.shards:
            self._print_line()

    @property
    def seconds(self) -> float:
        """Since the display was entered."""
        return time.monotonic() - self.started

    def advance(self, progress: Progress) -> None:
        """More bytes were read, or samples annotated."""
        with self.lock:
            self.bytes_read += progress.bytes_read
            self.samples += progress.samples
            self._refresh()

    def finished(self, outcome: Outcome) -> None:
        """A shard was published or given up."""
        with self.lock:
            self.finished_shards += 1
            if isinstance(outcome, ShardFailure):
                self.failed_shards += 1
                self.note(f"given up {outcome.shard.uri}: {outcome.reason}")
            else:
                self.statuses.update(outcome.statuses)
                if outcome.halved_to is not None:
                    self.note(f"out of memory: {outcome.halved_to} images at a time from now on")
            self._refresh()

    def note(self, text: str) -> None:
        """Something a person should know while the run goes on."""
        say(self.console, f"{time.strftime('%H:%M:%S')} {text}")

    @property
    def images_per_second(self) -> float:
        """Since the display was entered."""
        return self.samples / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        """Shards, images, rate, statuses and the time left, in one line."""
        parts = [
            f"shards {self.finished_shards}/{self.shards}",
            counted(self.samples, "image"),
            f"{self.images_per_second:.1f} images/s",
            *(f"{status} {count}" for status, count in sorted(self.statuses.items())),
            *self._given_up(),
            *self._left(),
        ]
        return " · ".join(parts)

    @property
    def short(self) -> str:
        """What of it has room beside the bar, the most important first; at least the shards."""
        shown = f"{self.finished_shards}/{counted(self.shards, 'shard')}"
        statuses = sorted(self.statuses.items())
        parts = [
            *self._given_up(),
            *self._left(),
            f"{self.images_per_second:.1f} images/s",
            *(f"{status} {count}" for status, count in statuses if status != "ok"),
            counted(self.samples, "image"),
        ]
        # Beside it are the bar, the percentage and a space behind each.
        room = self.console.width - BAR_WIDTH - len(" 100% ")
        for part in parts:
            if len(longer := f"{shown} · {part}") <= room:
                shown = longer
        return shown

    def _given_up(self) -> list[str]:
        return [f"given up {self.failed_shards}"] if self.failed_shards else []

    def _left(self) -> list[str]:
        # From all of the run: shards are read in large pieces, so the latest pace says little.
        done = min(self.bytes_read / self.size, 1.0) if self.size else 1.0
        return [f"{_duration(self.seconds * (1 - done) / done)} left"] if 0 < done < 1 else []

    def _refresh(self) -> None:
        # A shard that is read a second time must not fill the bar beyond its end.
        self.bar.update(self.task, completed=min(self.bytes_read, self.size))
        if self.bar.disable and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def _print_line(self) -> None:
        self.last_line = time.monotonic()
        self.note(str(self))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
