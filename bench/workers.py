"""Workers: what Ray adds to a run, and how busy a hand-out of shards keeps a cluster."""

from __future__ import annotations

import heapq
import os
import shutil
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from bench.common import (
    Images,
    Observed,
    To,
    config_of,
    packed,
    peak_resident,
    write_figures,
)
from bench.gpu_use import GpuUse, gpu_use
from cambox.config import Config
from cambox.engines.local import SHARDS_IN_WORK
from cambox.engines.worker import local_device
from cambox.engines.worklist import Outcome, WorkList
from cambox.output.ledger import Plan
from cambox.run import make_engine
from cambox.shard_report import ShardReport
from cambox.sources.shards import Shard, find_shards
from cambox.threads import usable_cpus

Settings = dict[str, float | str]


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
    write_figures(result, to)


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
        work.finish(ShardReport(shard, "", Counter(), 0, Counter(), 0.0, {}, None))
    return sum(taken.values()) / (workers * max(free))


def engines(threads: int, on_gpu: bool) -> dict[str, Settings]:
    """This process with all threads; one actor with them; and several that share the machine.

    Without a GPU also ``single``: one actor with one thread, as each of two has.
    """
    one: Settings = {"name": "ray", "workers": 1, "cpus_per_worker": threads}
    local: Settings = {"name": "local", "cpus_per_worker": threads}
    if on_gpu:
        shared: dict[str, Settings] = {"local": local, "one": one}
        for name, count in (("two", 2), ("four", 4), ("eight", 8)):
            part = {"cpus_per_worker": max(1, threads // count), "gpus_per_worker": 1 / count}
            shared[name] = one | part | {"workers": count}
        return shared
    single = one | {"cpus_per_worker": 1}
    return {"local": local, "one": one, "single": single, "two": single | {"workers": 2}}


@dataclass(frozen=True)
class ActorRun:
    """How a run went.

    Attributes:
        rate: rows a second with all workers at work, see ``Observed``.
        until_made, until_ready, until_done: seconds until there is an engine, from then until its
            workers are ready, and from then to the last shard.
        gpu_busy: share of the time from when the first worker was ready; None on a CPU.
        cpus_busy: of the machine, on average while all workers were at work.
        resident_bytes: of the largest actor at its peak; 0 without actors.
    """

    rate: float
    rows: int
    until_made: float
    until_ready: float
    until_done: float
    gpu_busy: float | None
    cpus_busy: float
    resident_bytes: int


def observed_run(config: Config) -> ActorRun:
    """Annotate all shards with the engine that is configured."""
    start = time.perf_counter()
    engine = make_engine(config)
    made = time.perf_counter()
    with ExitStack() as stack:
        observed = _Watched(stack)
        engine.annotate(tuple(find_shards(config.input.shards)), observed)
    ready = max(observed.ready)
    return ActorRun(
        rate=observed.rate(in_work=SHARDS_IN_WORK * len(observed.ready)),
        rows=sum(rows for _, rows in observed.ends),
        until_made=made - start,
        until_ready=ready - made,
        until_done=observed.ends[-1][0] - ready,
        gpu_busy=None if observed.gpu is None else observed.gpu.busy,
        cpus_busy=observed.cpus_busy(),
        resident_bytes=observed.resident_bytes,
    )


class _Watched(Observed):
    """Looks at GPU and CPUs from when workers are ready, and at what actors hold."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.stack = stack
        self.gpu: GpuUse | None = None
        self.busy_seconds: list[tuple[float, float]] = []
        self.resident_bytes = 0

    def note(self, text: str) -> None:
        super().note(text)
        if self.ready and self.gpu is None:
            self.gpu = self.stack.enter_context(gpu_use(local_device()))

    def finished(self, outcome: Outcome) -> None:
        super().finished(outcome)
        held = map(peak_resident, actor_processes())
        self.resident_bytes = max(self.resident_bytes, max(held, default=0))
        self.busy_seconds.append((time.perf_counter(), cpu_seconds()))

    def cpus_busy(self) -> float:
        """On average, until the last shard ended; 0 where no two ended with all workers ready."""
        seen = [one for one in self.busy_seconds if one[0] > max(self.ready)]
        if len(seen) < 2:
            return 0.0
        (begin, before), (end, after) = seen[0], seen[-1]
        return (after - before) / (end - begin)


def cpu_seconds() -> float:
    """Of all CPUs of the machine, since it started, that were not idle."""
    # user, nice, system, idle, iowait, irq, softirq, ...; the kernel counts hundredths.
    counts = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    user, nice, system, _, _, irq, softirq = map(int, counts)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def actor_processes() -> list[int]:
    """Ids of the actors of this user on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # Processes end while they are looked at.
        with suppress(OSError):
            if path.read_bytes().startswith(b"ray::ShardWorker"):
                found.append(int(path.parent.name))
    return found


def actors(
    images: Images,
    model: Annotated[str, typer.Option(help="A timm model")] = "mobilenetv2_100",
    copies: Annotated[int, typer.Option(min=1, help="How often they are annotated")] = 8,
    samples_per_shard: Annotated[int, typer.Option(min=1)] = 50,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    to: To = None,
) -> None:
    """Ray actors beside this process: one with all threads, and two that share them.

    Without a GPU also one with a single thread, beside two of such. Rows a second after start-up,
    one figure a round.
    """
    os.environ.setdefault("RAY_ADDRESS", "local")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    settings = engines(usable_cpus(), torch.cuda.is_available())
    rates: dict[str, list[float]] = {name: [] for name in settings}
    with tempfile.TemporaryDirectory() as folder:
        shards = packed(images, Path(folder, "packed"), samples_per_shard, copies)
        for _ in range(repeats):
            for name, engine in settings.items():
                config = config_of(shards, Path(folder, "out"), {"name": model}, engine=engine)
                shutil.rmtree(config.output.uri, ignore_errors=True)
                rates[name].append(observed_run(config).rate)
                write_figures(rates, to)
    middle = {name: float(np.median(values)) for name, values in rates.items()}
    Console().print(
        f"one actor / local {middle['one'] / middle['local']:.3f}; two actors / one of their size "
        f"{middle['two'] / middle.get('single', middle['one']):.3f}; rows a second: "
        + ", ".join(f"{name} {value:.1f}" for name, value in middle.items())
    )
