"""New boxes from stored maps beside annotating anew: how much faster, and how equal."""

from __future__ import annotations

import io
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.dataset
import typer
from rich.console import Console
from rich.progress import track

from bench.common import Images, To, packed, write_figures
from cambox.config import Config
from cambox.config_file import load_config
from cambox.rebox.rebox import rebox_output
from cambox.run import run

SIDES = ("x_min", "y_min", "x_max", "y_max")
# Of the longer side of an image: two boxes that lie closer are the same up to the maps' 8 bits.
CLOSE = 0.01


@dataclass(frozen=True)
class ReboxResult:
    """Rates in rows a second, and how equal the boxes are.

    Attributes:
        annotate, rebox: of each repeat.
        ratio: the median over the repeats.
        maps: stored, of all images.
        images_with_as_many: share of images with the same classes and components.
        boxes_close: of their boxes, the share with every side within ``CLOSE``.
        largest_shift: of a side, as a share of the image's longer side.
    """

    images: int
    maps: int
    annotate: list[float]
    rebox: list[float]
    ratio: float
    images_with_as_many: float
    boxes_close: float
    largest_shift: float


def rebox(
    images: Images,
    recipe: Annotated[str, typer.Option(help="A configuration file, or a recipe's name")] = (
        "mobilenetv2"
    ),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Of the recipe")
    ] = None,
    threshold: Annotated[float, typer.Option(help="The other boxes.threshold")] = 0.3,
    copies: Annotated[int, typer.Option(min=1, help="How often the images are annotated")] = 4,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    to: To = None,
) -> None:
    """Rate of `cambox rebox` over that of annotating, and whether the boxes are the same.

    Both without their start: the clock runs when models are loaded and files listed.
    """
    console = Console()
    other = f"boxes.threshold={threshold}"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shards = packed(images, work / "packed", 100, copies)
        given = [
            *(overrides or []),
            f"input.shards=[{shards}]",
            "output.store_maps=true",
            "engine.name=local",
        ]
        config = load_config(recipe, [*given, f"output.uri={work / 'given'}"])
        _, anew = _annotated(load_config(recipe, [*given, f"output.uri={work / 'other'}", other]))
        rates: list[float] = []
        again: list[float] = []
        for repeat in track(range(repeats), "measuring", console=console):
            shutil.rmtree(work / "given", ignore_errors=True)
            rate, source = _annotated(config)
            rates.append(rate)
            summary = rebox_output(source, str(work / f"reboxed-{repeat}"), [other])
            again.append(summary.made.rows / summary.seconds)
        result = _compared(_rows(summary.folder), _rows(anew), rates, again)
    console.print(
        f"annotate {statistics.median(rates):.0f} images/s, rebox {statistics.median(again):.0f}, "
        f"ratio {result.ratio:.1f}; {result.maps / result.images:.1f} maps an image; boxes anew: "
        f"{result.images_with_as_many:.1%} of the images have the same components, of their "
        f"boxes {result.boxes_close:.2%} lie within {CLOSE:.0%} of the side, the farthest "
        f"{result.largest_shift:.1%} away",
        highlight=False,
    )
    write_figures(result, to)


def _annotated(config: Config) -> tuple[float, str]:
    """Rows a second, and the folder that they are in."""
    summary = run(config, Console(file=io.StringIO()))
    if not summary.complete:
        raise RuntimeError(f"shards were given up: {summary.failures}")
    return summary.images_per_second, summary.folder


def _rows(folder: str) -> list[dict[str, Any]]:
    rows = pyarrow.dataset.dataset(folder).to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["shard"], row["sample_index"]))


def _compared(
    reboxed: list[dict[str, Any]],
    anew: list[dict[str, Any]],
    annotate: list[float],
    rebox: list[float],
) -> ReboxResult:
    same, shifts = 0, []
    for pair in zip(reboxed, anew, strict=True):
        mine, others = (row["objects"] for row in pair)
        kinds = [
            [(box["class_id"], box["rank"], box["component"]) for box in boxes]
            for boxes in (mine, others)
        ]
        if kinds[0] != kinds[1]:
            continue
        same += 1
        longer = max(pair[0]["width"] or 1, pair[0]["height"] or 1)
        for one, two in zip(mine, others, strict=True):
            shifts.append(max(abs(one[side] - two[side]) for side in SIDES) / longer)
    return ReboxResult(
        images=len(anew),
        maps=sum(len(row["maps"]) for row in reboxed),
        annotate=annotate,
        rebox=rebox,
        ratio=statistics.median(np.array(rebox) / np.array(annotate)),
        images_with_as_many=same / len(anew),
        boxes_close=float(np.mean(np.array(shifts) <= CLOSE)),
        largest_shift=max(shifts),
    )
