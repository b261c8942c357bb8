"""What a person is told of an export at its end."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cambox.export.export import ExportReport


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
