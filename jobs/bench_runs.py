"""What a whole run costs beside its images: planning, hand-out, workers, memory."""

from __future__ import annotations

import heapq
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torchvision
import typer
from rich.console import Console

from pipeline.annotate import Progress, ShardReport
from pipeline.annotations.footer import Footer
from pipeline.annotations.ledger import Plan, plan
from pipeline.annotations.publish import file_name, recipe_uri
from pipeline.annotations.rows import Row, table
from pipeline.annotations.serialise import to_parquet
from pipeline.config import Config, OutputSettings
from pipeline.engines.local import LocalEngine
from pipeline.engines.outcome import Outcome
from pipeline.engines.worklist import WorkList
from pipeline.recipe import Recipe
from pipeline.run import make_engine
from pipeline.sources.pack import pack
from pipeline.sources.shards import Shard, find_shards

To = Annotated[Path | None, typer.Option("--to", help="Write the figures there, as JSON")]


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
    _write(times, to)


@dataclass(frozen=True)
class Schedule:
    """Busy time over workers x makespan, in a simulated cluster.

    Attributes:
        spread: of the logarithm of a shard's seconds.
        known: with seconds proportional to the shards' sizes.
        unknown: with shards of one size, of which nobody can tell which takes long.
        best: what no order can exceed: the longest shard alone, or all workers always busy.
    """

    shards: int
    workers: int
    spread: float
    known: float
    unknown: float
    best: float


def schedule(
    shards: Annotated[int, typer.Option(min=1)] = 2000,
    workers: Annotated[int, typer.Option(min=1)] = 32,
    spread: Annotated[float, typer.Option(help="Of the logarithm of the seconds")] = 0.7,
    to: To = None,
) -> None:
    """How busy workers are when shards take log-normal times, handed out by the real code."""
    seconds = np.random.default_rng(0).lognormal(4, spread, shards)
    most = seconds.sum() / (workers * max(seconds.max(), seconds.sum() / workers))
    result = Schedule(
        shards,
        workers,
        spread,
        known=simulate(seconds, np.round(seconds * 1e6).astype(int), workers),
        unknown=simulate(seconds, np.ones(shards, int), workers),
        best=float(most),
    )
    Console().print(
        f"busy time / (workers x makespan): {result.known:.3f} where sizes tell the time, "
        f"{result.unknown:.3f} where they do not, {result.best:.3f} at most"
    )
    _write(result, to)


def simulate(seconds: np.ndarray, sizes: np.ndarray, workers: int) -> float:
    """Let the engine's own work list hand out shards in virtual time.

    Args:
        seconds: that each shard takes.
        sizes: of each, in bytes, which is what the plan orders by.

    Returns:
        Busy time over workers x makespan.
    """
    taken = {f"shard-{number}": float(value) for number, value in enumerate(seconds)}
    shards = tuple(Shard(uri, int(size), "x") for uri, size in zip(taken, sizes, strict=True))
    work = WorkList(Plan(shards, (), (), (), (), {}).to_do, 1, Observed())
    free = [0.0] * workers
    while (shard := work.next()) is not None:
        start = heapq.heappop(free)
        heapq.heappush(free, start + taken[shard.uri])
        work.published(ShardReport(shard, "", Counter(), 0, Counter(), 0.0, {}, None))
    return sum(taken.values()) / (workers * max(free))


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


@dataclass(frozen=True)
class Workers:
    """Rows a second after start-up, one entry a round.

    Attributes:
        local: in this process, all threads.
        one: one actor with all threads.
        single: one actor with one thread.
        two: two actors with one thread each.
    """

    local: list[float]
    one: list[float]
    single: list[float]
    two: list[float]


def ray_command(
    images: Annotated[Path, typer.Argument(help="Folder of JPEG files")],
    model: Annotated[str, typer.Option(help="A timm model")] = "mobilenetv2_100",
    copies: Annotated[int, typer.Option(min=1, help="How often they are annotated")] = 8,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    to: To = None,
) -> None:
    """Ray actors beside this process: one with all threads, one and two with a thread each."""
    os.environ.setdefault("RAY_ADDRESS", "local")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    rates: dict[str, list[float]] = {"local": [], "one": [], "single": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "packed")
        pack(images, packed, samples_per_shard=50)
        for copy in range(1, copies):
            for shard in sorted(packed.glob("shard-*.tar")):
                shutil.copy(shard, packed / f"copy-{copy}-{shard.name}")
        threads = len(os.sched_getaffinity(0))
        for _ in range(repeats):
            for name, workers, cpus in (
                ("local", 1, threads),
                ("one", 1, threads),
                ("single", 1, 1),
                ("two", 2, 1),
            ):
                config = _config(packed, Path(folder, "out"), model, name, workers, cpus)
                shutil.rmtree(config.output.uri, ignore_errors=True)
                observed = Observed()
                make_engine(config).annotate(tuple(find_shards(config.input.shards)), observed)
                rates[name].append(observed.rate())
    result = Workers(**rates)
    middle = {name: float(np.median(values)) for name, values in rates.items()}
    Console().print(
        f"one actor / local {middle['one'] / middle['local']:.3f}; two actors of one thread / one "
        f"{middle['two'] / middle['single']:.3f}; rows a second: "
        + ", ".join(f"{name} {value:.1f}" for name, value in middle.items())
    )
    _write(result, to)


def _config(packed: Path, output: Path, model: str, name: str, workers: int, cpus: int) -> Config:
    return Config.model_validate(
        {
            "input": {"shards": [str(packed / "*.tar")]},
            "model": {"name": model},
            "output": {"uri": str(output)},
            "engine": {
                "name": "local" if name == "local" else "ray",
                "workers": workers,
                "cpus_per_worker": cpus,
            },
        }
    )


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
    _write(Flatness(few, many, *peaks), to)


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


def _write(result: Any, to: Path | None) -> None:
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json.dumps(asdict(result), indent=1) + "\n")
