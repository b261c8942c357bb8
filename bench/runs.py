"""What a whole run costs beside its images: planning and memory."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torchvision
import typer
from rich.console import Console

from bench.observed import Observed, To, write_figures
from cambox.config import Config, OutputSettings
from cambox.engines.local import LocalEngine
from cambox.output.footer import Footer
from cambox.output.ledger import Plan, plan
from cambox.output.publish import file_name, recipe_uri
from cambox.output.recipe import Recipe
from cambox.output.rows import Row, table
from cambox.output.serialise import to_parquet
from cambox.sources.shards import find_shards


@dataclass(frozen=True)
class PlanTimes:
    """Seconds to list and plan, with nothing and with everything published."""

    shards: int
    nothing_published: float
    all_published: float


def plan_command(
    shards: Annotated[int, typer.Option(min=1)] = 10_000,
    to: To = None,
) -> None:
    """Seconds of planning over many shards on a local disk."""
    names = tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])
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
        published = Path(recipe_uri(output, recipe))
        published.mkdir(parents=True)
        for shard in work.new:
            rows = [Row("a", shard.uri, 0, "unreadable", "none", None, None, None)]
            metadata = Footer.of(recipe, shard).to_metadata()
            data = to_parquet(table(rows, False).replace_schema_metadata(metadata))
            (published / file_name(shard.uri)).write_bytes(data)
        work, everything = planned()
        if len(work.done) != shards:
            raise RuntimeError(f"expected {shards} done shards, planned {work}")
    times = PlanTimes(shards, nothing, everything)
    Console().print(
        f"{shards} shards: {nothing:.2f} s with nothing published, {everything:.2f} s with all"
    )
    write_figures(times, to)


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
    peaks = []
    for samples in (few, many):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            peaks.append(pool.submit(peak_of_run, samples).result())
    Console().print(
        f"peak at {many} samples / at {few}: {peaks[1] / peaks[0]:.3f} "
        f"({peaks[1] / 2**20:.0f} and {peaks[0] / 2**20:.0f} MiB)"
    )
    write_figures(Flatness(few, many, *peaks), to)


def peak_of_run(samples: int) -> int:
    """Annotate so many small pictures in shards of 1000 and give the most bytes held."""
    from webdataset.writer import TarWriter

    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, samples, 1000):
            with TarWriter(str(Path(folder, f"shard-{start:06d}.tar"))) as archive:
                for index in range(start, min(start + 1000, samples)):
                    grain = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                    picture = cv2.resize(grain, (96, 72), interpolation=cv2.INTER_CUBIC)
                    data = cv2.imencode(".jpg", picture)[1].tobytes()
                    archive.write({"__key__": f"{index:06d}", "jpg": data})
        config = Config.model_validate(
            {
                "input": {"shards": [str(Path(folder, "*.tar"))]},
                "model": {"name": "test_resnet", "input_size": 64},
                "output": {"uri": str(Path(folder, "out"))},
            }
        )
        LocalEngine(config).annotate(tuple(find_shards(config.input.shards)), Observed())
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
