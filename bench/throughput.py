"""How close the pipeline comes to the bare forward pass, and how far its peers are."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.cases import PLAIN, PREPARED, Bench, Work, forward_cases, own_cases, peer_cases, prepare
from bench.common import Images, Model, To, write_figures
from bench.gpu_use import GpuUse, gpu_use
from cambox.output.footer import library_versions
from cambox.threads import usable_cpus


@dataclass
class Timing:
    """One case.

    Attributes:
        first: milliseconds per image of the first round, which warms up.
        milliseconds: of each later round.
        to_plain, to_prepared: median over the rounds of the forward pass's time in the same round
            over this one's; 1 is as fast as the forward pass.
        gpu: what the last round took of the GPU.
        error: why it could not be measured.
    """

    case: str
    first: float | None = None
    milliseconds: list[float] = field(default_factory=list)
    to_plain: float | None = None
    to_prepared: float | None = None
    gpu: GpuUse = field(default_factory=GpuUse)
    error: str | None = None

    @property
    def counted(self) -> list[float]:
        """The later rounds, or the first where there was no other."""
        return self.milliseconds or ([] if self.first is None else [self.first])

    def over(self, forward: Timing) -> float | None:
        """The forward pass's time over this one's; rounds end where time is up."""
        pairs = list(zip(forward.counted, self.counted, strict=False))
        return statistics.median(one / other for one, other in pairs) if pairs else None


def throughput(
    images: Images,
    model: Model = '{"name": "mobilenetv2_100"}',
    repeats: Annotated[int, typer.Option(min=1, help="Rounds through all cases")] = 5,
    copies: Annotated[int, typer.Option(min=1, help="How often a round annotates them")] = 1,
    peer_images: Annotated[
        int, typer.Option(min=0, help="Images of a peer in a round, grad-cam a fifth; 0: no peers")
    ] = 300,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the network and of decoding; default: all CPUs")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Begin no case that would not end within so many")
    ] = math.inf,
    to: To = None,
) -> None:
    """Milliseconds per image: the forward pass, the pipeline, its stages alone, and peers.

    All cases take turns, round by round, so that a busy machine slows all of them alike.
    """
    begun = time.monotonic()
    threads = threads or usable_cpus()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bench = prepare(work, images, json.loads(model), copies, threads)
        cases = dict(forward_cases(bench)) | dict(own_cases(bench))
        if peer_images:
            cases |= dict(peer_cases(bench, work, images, peer_images))
        timings = measure(bench, cases, repeats, to, begun + seconds)
    if any(timing.error for timing in timings):
        raise typer.Exit(1)


def measure(
    bench: Bench,
    cases: Mapping[str, Work],
    repeats: int,
    to: Path | None,
    deadline: float = math.inf,
) -> list[Timing]:
    """Time all cases round by round, and print and write what there is.

    A case that fails is told and left out of later rounds: peers that lack memory cost the others
    no figures.

    Args:
        to: the figures, written anew after each case, so that a run that is cut off leaves some.
        deadline: on the monotonic clock; a case that would not end by then is not begun.
    """
    console = Console()
    device = bench.classifier.device
    timings = {name: Timing(name) for name in cases}
    took = dict.fromkeys(cases, 0.0)
    for number in range(repeats + 1):
        for name, case in cases.items():
            timing = timings[name]
            if timing.error or time.monotonic() + 1.2 * took[name] > deadline:
                continue
            try:
                with gpu_use(device) as timing.gpu:
                    start = time.perf_counter()
                    count = case()
                    took[name] = time.perf_counter() - start
            except Exception as error:  # noqa: BLE001 (told below, whatever it is)
                traceback.print_exc()
                timing.error = f"{type(error).__name__}: {error}"[:500]
                continue
            console.print(f"round {number}: {name}: {count} images in {took[name]:.2f} s")
            value = 1000 * took[name] / count
            if number:
                timing.milliseconds.append(value)
            else:
                timing.first = value
            for one in timings.values():
                one.to_plain, one.to_prepared = (
                    one.over(timings[PLAIN]),
                    one.over(timings[PREPARED]),
                )
            write_figures(_document(bench, list(timings.values())), to)
    console.print(_table(list(timings.values())))
    return list(timings.values())


def _document(bench: Bench, timings: list[Timing]) -> dict[str, Any]:
    on_gpu = bench.classifier.device.type == "cuda"
    return {
        "model": bench.config.model.model_dump(exclude_defaults=True),
        "device": str(bench.classifier.device),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "precision": bench.classifier.precision,
        "batch": bench.annotator.batch_size,
        "threads": bench.threads,
        "images": bench.images,
        "versions": dict(library_versions()),
        "cases": timings,
    }


def _table(timings: list[Timing]) -> Table:
    on_gpu = any(timing.gpu.peak_bytes is not None for timing in timings)
    table = Table("case", "ms per image", "from", "to", "plain / case", "prepared / case")
    for title in ("GPU memory", "GPU busy") if on_gpu else ():
        table.add_column(title)
    for timing in timings:
        counted = timing.counted
        if not counted:
            table.add_row(timing.case, timing.error or "no time")
            continue
        values = statistics.median(counted), min(counted), max(counted)
        ratios = timing.to_plain, timing.to_prepared
        memory, busy = timing.gpu.peak_bytes, timing.gpu.busy
        table.add_row(
            timing.case if timing.milliseconds else f"{timing.case} (first round)",
            *("" if value is None else f"{value:.2f}" for value in (*values, *ratios)),
            *(("" if memory is None else f"{memory / 2**20:.0f} MiB",) if on_gpu else ()),
            *(("" if busy is None else f"{busy:.0%}",) if on_gpu else ()),
        )
    return table
