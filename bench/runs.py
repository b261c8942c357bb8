"""What a whole run costs beside its images: planning and memory."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.console import Console

from bench.common import Observed, To, config_of, in_a_process, packed, peak_resident, write_figures
from cambox.boxes import Boxes
from cambox.config import OutputSettings
from cambox.engines.local import LocalEngine
from cambox.output.footer import Recipe
from cambox.output.ledger import Plan, plan
from cambox.output.publish import publish
from cambox.output.rows import Row, table
from cambox.sources.shards import find_shards


@dataclass(frozen=True)
class PlanTimes:
    """Seconds to list and plan, with nothing and with everything published."""

    shards: int
    nothing_published: float
    all_published: float


def planning(shards: Annotated[int, typer.Option(min=1)] = 10_000, to: To = None) -> None:
    """Seconds of planning over many shards on a local disk."""
    names = tuple(f"class {number}" for number in range(1000))
    recipe = Recipe(json.dumps({"model": "any"}), names, "0123456789abcdef" * 4)
    with tempfile.TemporaryDirectory() as folder:
        inputs, output = Path(folder, "in"), OutputSettings(uri=str(Path(folder, "out")))
        inputs.mkdir()
        for number in range(shards):
            (inputs / f"shard-{number:06d}.tar").write_bytes(bytes(1024))

        def planned() -> tuple[Plan, float]:
            start = time.perf_counter()
            work = plan(find_shards([str(inputs / "*.tar")]), recipe, output)
            return work, time.perf_counter() - start

        work, nothing = planned()
        if len(work.new) != shards:
            raise RuntimeError(f"expected {shards} new shards, planned {work}")
        for shard in work.new:
            rows = [Row("a", shard.uri, 0, "unreadable", "none", None, None, None)]
            publish(table(rows, Boxes.of(()), names, False), shard, recipe, output)
        work, everything = planned()
        if len(work.done) != shards:
            raise RuntimeError(f"expected {shards} done shards, planned {work}")
    Console().print(
        f"{shards} shards: {nothing:.2f} s with nothing published, {everything:.2f} s with all"
    )
    write_figures(PlanTimes(shards, nothing, everything), to)


@dataclass(frozen=True)
class Flatness:
    """Peak resident memory of runs over few and many samples, in bytes."""

    few: int
    many: int
    peak_of_few: int
    peak_of_many: int


def flat(
    few: Annotated[int, typer.Option(min=1)] = 1000,
    many: Annotated[int, typer.Option(min=1)] = 20_000,
    to: To = None,
) -> None:
    """Peak resident memory over many samples beside few, each in a process of its own."""
    peaks = [in_a_process(peak_of_run, samples) for samples in (few, many)]
    Console().print(
        f"peak at {many} samples / at {few}: {peaks[1] / peaks[0]:.3f} "
        f"({peaks[1] / 2**20:.0f} and {peaks[0] / 2**20:.0f} MiB)"
    )
    write_figures(Flatness(few, many, *peaks), to)


def peak_of_run(samples: int) -> int:
    """Annotate so many small pictures in shards of 1000 and give the most bytes held."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for index in range(samples):
            grain = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            picture = cv2.resize(grain, (96, 72), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / "images" / f"{index:06d}.jpg"), picture)
        shards = packed(folder / "images", folder / "shards")
        config = config_of(shards, folder / "out", {"name": "test_resnet", "input_size": 64})
        LocalEngine(config).annotate(tuple(find_shards(config.input.shards)), Observed())
    return peak_resident()
