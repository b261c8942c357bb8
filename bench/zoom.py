"""What several looks at an image cost: beside their forward passes alone, and beside `precise`."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from bench.cases import Bench
from bench.common import Images, Observed, To, packed, write_figures
from cambox.config_file import load_config
from cambox.models.classifier import Classifier
from cambox.sources.load import load_sample
from cambox.sources.samples import read_samples
from cambox.threads import Stopwatch, grouped
from cambox.zoomed_image import Pass, ZoomedImages


@dataclass
class ZoomTimes:
    """CPU milliseconds of one thread, in each round.

    Attributes:
        precise, scenes: of all images, from tar shards to published files.
        looks: of scenes, of each batch: from decoded images to rows.
        passes: of each batch, the calls of the network for those looks, on the same input, alone.
    """

    images: int
    precise: list[float] = field(default_factory=list)
    scenes: list[float] = field(default_factory=list)
    looks: list[list[float]] = field(default_factory=list)
    passes: list[list[float]] = field(default_factory=list)

    def rate(self, times: list[float]) -> float:
        """Images a second."""
        return 1000 * self.images / statistics.median(times)

    @property
    def over_passes(self) -> float:
        """So many times its passes a zoomed image takes; each batch counts with its median."""
        looks, passes = (
            np.median(np.array(of_rounds), axis=0).sum() for of_rounds in (self.looks, self.passes)
        )
        return float(looks / passes)


def zoom(
    images: Images,
    labels: Annotated[Path | None, typer.Option(help="Their classes, as for cambox pack")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Of both recipes")
    ] = None,
    of_scenes: Annotated[
        list[str] | None,
        typer.Option("--set-scenes", metavar="SECTION.KEY=VALUE", help="Of scenes"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images, evenly taken")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; one more comes before")] = 3,
    to: To = None,
) -> None:
    """Images/s of the recipes precise and scenes, and a zoomed image over its passes alone.

    One thread; the cases take turns, round by round.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        files = sorted(path for path in images.iterdir() if path.is_file())
        (work / "images").mkdir()
        for file in files[:: max(1, len(files) // count)][:count]:
            shutil.copy(file, work / "images" / file.name)
        shards = packed(work / "images", work / "packed", labels=labels)
        given = [
            *(overrides or []),
            f"input.shards=[{shards}]",
            f"output.uri={work / 'out'}",
            "engine.name=local",
            "engine.cpus_per_worker=1",
        ]
        precise = Bench.of(load_config("precise", given))
        scenes = Bench.of(load_config("scenes", [*given, *(of_scenes or [])]))
        batches = list(_batches(scenes))
        times = ZoomTimes(scenes.images)
        for number in track(range(repeats + 1), "measuring", transient=True):
            ends = [_milliseconds(partial(_end_to_end, bench)) for bench in (precise, scenes)]
            # Looks and passes of a batch one after the other, as a machine's speed changes.
            parts = [[_milliseconds(case) for case in cases] for cases in batches]
            if number:
                times.precise.append(ends[0])
                times.scenes.append(ends[1])
                times.looks.append([looks for looks, _ in parts])
                times.passes.append([passes for _, passes in parts])
    Console().print(
        f"{times.images} images, one thread: precise {times.rate(times.precise):.2f} images/s, "
        f"scenes {times.rate(times.scenes):.2f}; a zoomed image takes {times.over_passes:.3f} "
        "times its forward passes alone",
        highlight=False,
        soft_wrap=True,
    )
    write_figures(times, to)


def _milliseconds(case: Callable[[], object]) -> float:
    start = time.process_time()
    case()
    return 1000 * (time.process_time() - start)


def _end_to_end(bench: Bench) -> None:
    shutil.rmtree(bench.config.output.uri, ignore_errors=True)
    bench.engine.annotate(bench.shards, Observed())


def _batches(bench: Bench) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Of each batch of the pipeline: from decoded images to rows, and the passes of that alone."""
    annotator = bench.annotator
    lane, rule = annotator.lanes[0], annotator.load_rule
    assert isinstance(lane.looks, ZoomedImages)
    samples = (sample for shard in bench.shards for sample in read_samples(shard))
    for group in grouped(samples, annotator.batch_size):
        batch = [load_sample(sample, rule) for sample in group]
        inputs = list(lane.looks.inputs(batch))
        yield (
            partial(lane.annotate, "shard", batch, Stopwatch()),
            partial(_pass_all, lane.classifier, inputs),
        )


def _pass_all(classifier: Classifier, inputs: Sequence[Pass]) -> None:
    for one in inputs:
        classifier.at(*one.images.shape[1:3]).scores(one.images)
