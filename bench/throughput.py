"""How close the pipeline comes to the bare forward pass, and how far its peers are."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.cases import PLAIN, PREPARED, forward_cases, own_cases, peer_cases, prepare
from bench.gpu_use import GpuUse, gpu_use
from cambox.engines.worker import local_threads
from cambox.output.footer import library_versions


@dataclass(frozen=True)
class Timing:
    """One case.

    Attributes:
        milliseconds: per image, of each repeat.
        to_plain, to_prepared: median over the repeats of the forward pass's time in the same
            repeat over this one's; 1 is as fast as the forward pass.
        gpu: what the last repeat took of the GPU.
    """

    case: str
    milliseconds: list[float]
    to_plain: float
    to_prepared: float
    gpu: GpuUse


def throughput(
    images: Annotated[Path, typer.Argument(help="Folder of JPEG files")],
    model: Annotated[str, typer.Option(help="Settings of the model, as JSON")] = (
        '{"name": "mobilenetv2_100"}'
    ),
    repeats: Annotated[int, typer.Option(min=1, help="Rounds through all cases")] = 5,
    copies: Annotated[int, typer.Option(min=1, help="How often a round annotates them")] = 1,
    peer_images: Annotated[
        int, typer.Option(min=0, help="Images of a peer in a round, grad-cam a fifth; 0: no peers")
    ] = 300,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the network and of decoding; default: all CPUs")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write the figures there, as JSON")] = None,
) -> None:
    """Milliseconds per image: the forward pass, the pipeline, its stages alone, and peers.

    All cases take turns, round by round, so that a busy machine slows all of them alike.
    """
    console = Console()
    threads = threads or local_threads()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bench = prepare(work, images, json.loads(model), copies, threads)
        cases = dict(forward_cases(bench)) | dict(own_cases(bench))
        if peer_images:
            cases |= dict(peer_cases(bench, work, images, peer_images))
        measured: dict[str, list[float]] = {name: [] for name in cases}
        uses: dict[str, GpuUse] = {}
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=(repeats + 1) * len(cases))
            for round_number in range(repeats + 1):
                for name, case in cases.items():
                    with gpu_use(bench.classifier.device) as uses[name]:
                        start = time.perf_counter()
                        count = case()
                        seconds = time.perf_counter() - start
                    if round_number:  # the first round warms up
                        measured[name].append(1000 * seconds / count)
                    progress.advance(task)
    timings = [
        Timing(
            name,
            values,
            _ratio(measured[PLAIN], values),
            _ratio(measured[PREPARED], values),
            uses[name],
        )
        for name, values in measured.items()
    ]
    console.print(_table(timings))
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "model": json.loads(model),
            "device": str(bench.classifier.device),
            "precision": bench.classifier.precision,
            "threads": threads,
            "images": bench.images,
            "versions": dict(library_versions()),
            "cases": [asdict(timing) for timing in timings],
        }
        to.write_text(json.dumps(document, indent=1) + "\n")


def _ratio(forward: Sequence[float], values: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(forward, values, strict=True))


def _table(timings: Sequence[Timing]) -> Table:
    on_gpu = any(timing.gpu.peak_bytes is not None for timing in timings)
    titles = ("case", "ms per image", "from", "to", "plain / case", "prepared / case")
    table = Table(*titles, *(("GPU memory", "GPU busy") if on_gpu else ()))
    for timing in timings:
        values = (
            statistics.median(timing.milliseconds),
            min(timing.milliseconds),
            max(timing.milliseconds),
            timing.to_plain,
            timing.to_prepared,
        )
        row = [timing.case, *(f"{value:.2f}" for value in values)]
        if on_gpu:
            memory, busy = timing.gpu.peak_bytes, timing.gpu.busy
            row.append("" if memory is None else f"{memory / 2**20:.0f} MiB")
            row.append("" if busy is None else f"{busy:.0%}")
        table.add_row(*row)
    return table
