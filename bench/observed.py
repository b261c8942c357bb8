"""What measurements of whole runs share."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cambox.annotate import Progress, ShardReport
from cambox.engines.outcome import Outcome

To = Annotated[Path | None, typer.Option("--to", help="Write the figures there, as JSON")]


class Observed:
    """Notes when workers were ready and shards finished."""

    def __init__(self) -> None:
        self.ready: list[float] = []
        self.ends: list[tuple[float, int]] = []

    def advance(self, progress: Progress) -> None:
        """Not needed."""

    def finished(self, outcome: Outcome) -> None:
        """When, and with how many rows."""
        if not isinstance(outcome, ShardReport):
            raise TypeError(f"a shard was given up: {outcome}")
        self.ends.append((time.perf_counter(), outcome.samples))

    def note(self, text: str) -> None:
        """A worker that is ready says so."""
        if text.startswith(("worker ready", "one worker")):
            self.ready.append(time.perf_counter())

    def rate(self) -> float:
        """Rows a second, from the first shard that ended with all workers ready to the last."""
        ends = [(end, rows) for end, rows in self.ends if end > max(self.ready)]
        return sum(rows for _, rows in ends[1:]) / (ends[-1][0] - ends[0][0])


def write_figures(result: Any, to: Path | None) -> None:
    """A dataclass, as JSON, where that is wanted."""
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json.dumps(asdict(result), indent=1) + "\n")
