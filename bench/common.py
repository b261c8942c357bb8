"""What the measurements share: options, settings, shards, figures, and notes of a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cambox.config import Config
from cambox.engines.worklist import Outcome
from cambox.shard_report import Progress, ShardReport
from cambox.sources.pack import pack

Images = Annotated[Path, typer.Argument(help="Folder of JPEG files")]
Model = Annotated[str, typer.Option(help="Settings of the model, as JSON")]
To = Annotated[Path | None, typer.Option(help="Write the figures there, as JSON")]
Result = TypeVar("Result")


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

    def rate(self, in_work: int = 0) -> float:
        """Rows a second, from the first shard that ended with all workers ready to the last.

        Args:
            in_work: shards at once, of which the last are left out: so many were in work when the
                first ended, too.

        Raises:
            ValueError: there were too few shards for that.
        """
        ends = [(end, rows) for end, rows in self.ends if end > max(self.ready)]
        ends = ends[: len(ends) - in_work]
        if len(ends) < 2:
            raise ValueError(f"{len(self.ends)} shards are too few to tell a rate")
        return sum(rows for _, rows in ends[1:]) / (ends[-1][0] - ends[0][0])


def config_of(shards: str, to: Path, model: dict[str, Any], **sections: Any) -> Config:
    """The defaults over shards, but for the model and whatever is given of other sections."""
    output = {"uri": str(to), **sections.pop("output", {})}
    read = {"shards": [shards], **sections.pop("input", {})}
    return Config.model_validate({"input": read, "model": model, "output": output, **sections})


def packed(
    images: Path,
    folder: Path,
    per_shard: int = 1000,
    times: int = 1,
    labels: Path | None = None,
) -> str:
    """Shards of the images, each under so many names, which take no room; their glob."""
    pack(images, folder, labels, per_shard)
    shards = sorted(folder.glob("*.tar"))
    for again in range(1, times):
        for shard in shards:
            os.link(shard, folder / f"again-{again}-{shard.name}")
    return str(folder / "*.tar")


def write_figures(figures: Any, to: Path | None) -> None:
    """Dataclasses, also in lists and dicts, as JSON, where that is wanted."""
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json.dumps(figures, indent=1, default=asdict) + "\n")


def in_a_process(work: Callable[..., Result], *given: Any) -> Result:
    """What a function gives in a process of its own: an allocator that has grown stays grown."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *given).result()


def peak_resident(process: int | None = None) -> int:
    """The most bytes that a process, this one, has held at once; 0 of one that has ended."""
    try:
        status = Path("/proc", str(process or "self"), "status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Begin to look for the peak anew; the bytes that this process holds now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_resident()
