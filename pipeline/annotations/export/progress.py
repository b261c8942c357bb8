"""What a person sees of an export: a bar on a terminal, plain lines elsewhere, then a summary."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.annotations.export.run import ExportReport

_SECONDS_BETWEEN_LINES = 10.0
_IMAGES_BETWEEN_LOOKS = 100


class ImageCounter:
    """Shows how many images are exported, at what rate, and how long the rest takes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.start = self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn("export {task.completed:,} of {task.total:,} images"),
            BarColumn(),
            TextColumn("{task.fields[rate]:,.0f} images/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("export", total=0, rate=0.0)

    def __enter__(self) -> ImageCounter:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def show(self, done: int, total: int) -> None:
        """So many images of so many are written."""
        if done % _IMAGES_BETWEEN_LOOKS:
            return
        now = time.monotonic()
        rate = done / max(now - self.start, 1e-9)
        self.bar.update(self.task, completed=done, total=total, rate=rate)
        if not self.console.is_terminal and now - self.last_line >= _SECONDS_BETWEEN_LINES:
            self.last_line = now
            self.console.print(
                f"export {done:,} of {total:,} images, {rate:,.0f} images/s, "
                f"{(total - done) / rate:,.0f} s left",
                highlight=False,
            )


def print_report(report: ExportReport, to: Path, console: Console) -> None:
    """Say what was exported and what was not."""
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.left_out.items()))
    lines = [
        f"{report.images:,} images with {report.boxes:,} boxes, {report.classes:,} classes: {to}",
        f"left out: {left_out or 'nothing'}",
    ]
    if report.turned:
        lines.append(f"{report.turned:,} images were turned upright and encoded anew")
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
