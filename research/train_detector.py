"""What the boxes are worth: detectors trained on them, judged with true boxes.

Three detectors that differ only in the boxes they are trained on: those that cambox found, the
true ones, and one in the middle of the picture for each of its classes.
"""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer
from rich.console import Console

from cambox.boxes import Boxes, centre_box, place_in_group
from cambox.config_file import load_config
from cambox.demo import write_config
from cambox.demo.scenes import write_scenes
from cambox.detect.detector import load_detector
from cambox.detect.judge import Precision, found_and_true, precision
from cambox.detect.pictures import Parts, Pictures, collated
from cambox.detect.rows import Detected
from cambox.detect.train import TrainRequest, train
from cambox.output.derived import Parents, derive, whole_rows
from cambox.output.footer import Recipe
from cambox.output.reading import open_recipe
from cambox.output.rows import SIDES, boxes_from_arrow, boxes_to_arrow, schema
from cambox.review.rows_with_truth import numbered
from cambox.run import run
from cambox.sources.pack import pack
from cambox.threads import grouped
from cambox.training.dataset import BoxDataset
from research.training import SIDE

# Neither the demo's own pictures nor those that its classifier was trained or judged with.
FIRST_TRAINING_SEED = 3_000_000
FIRST_HELD_OUT_SEED = 4_000_000
BATCH_SIZE = 16
PEAK_LEARNING_RATE = 1e-3
CPU = torch.device("cpu")
TITLES = {
    "ours": "the boxes that cambox found",
    "true": "the true boxes",
    "centre": "a box in the middle for each class, 0.8 of each side",
}
KINDS = tuple(TITLES)

BoxesOf = Callable[[pa.Table], Sequence[Boxes]]
"""The boxes of each row of a file, in pixels."""


@dataclass(frozen=True)
class Result:
    """One detector: mean over the classes of COCO's average precision on held-out pictures."""

    boxes: str
    seed: int
    map_50: float
    map_50_95: float
    seconds: float


def annotate_scenes(folder: Path, count: int, first_seed: int) -> tuple[str, str]:
    """Make pictures and run cambox on them: its output, and the same with the true boxes."""
    write_scenes(folder, range(first_seed, first_seed + count))
    pack(folder / "images", folder / "shards", folder / "labels.csv", 200)
    output = run(write_config(folder), Console(quiet=True)).folder
    corners, classes = defaultdict(list), defaultdict(list)
    with (folder / "boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = Path(row["image"]).stem
            corners[key].append([float(row[side]) for side in SIDES])
            classes[key].append(int(row["class_index"]))

    def true_boxes(table: pa.Table) -> Sequence[Boxes]:
        keys = table["key"].to_pylist()
        return [Boxes.of(corners[key], class_id=classes[key], score=1) for key in keys]

    return output, with_boxes(output, str(folder / "true"), true_boxes)


def centre_boxes(table: pa.Table) -> Sequence[Boxes]:
    """A box in the middle for each class that a row has a box of."""
    found = boxes_from_arrow(table["objects"].combine_chunks())
    sizes = zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)
    boxes = []
    for row, (width, height) in enumerate(sizes):
        classes = np.unique(found.class_id[found.image == row])
        corners = np.repeat(centre_box(width, height), len(classes), axis=0)
        boxes.append(Boxes.of(corners, class_id=classes, score=1))
    return boxes


def with_boxes(output: str, to: str, boxes_of: BoxesOf) -> str:
    """An output with other boxes; its folder."""
    source = open_recipe(output)
    settings = source.settings
    settings["output"]["store_maps"] = False
    recipe = Recipe.of(settings, source.footer.classes)

    def make(parents: Parents) -> tuple[pa.Table, Detected]:
        rows = whole_rows(parents[0])
        boxes = numbered(boxes_of(rows))
        boxes = boxes[np.lexsort((boxes.class_id, boxes.image))]
        boxes = boxes.with_columns(component=place_in_group(boxes.image, boxes.class_id))
        objects = boxes_to_arrow(boxes, rows.num_rows, recipe.class_names)
        columns = schema(with_maps=False)
        place = columns.get_field_index("objects")
        rows = rows.select(columns.names).set_column(place, "objects", objects)
        return rows.cast(columns), Detected(rows=rows.num_rows)

    derived = derive(to, recipe, [(file,) for file in source.files], make, Detected())
    assert not derived.failures, derived.failures
    return derived.folder


def judged(detector: Path, pictures: str) -> Precision:
    """How well a detector finds the true boxes of an output's pictures."""
    network, description = load_detector(detector, CPU)
    dataset = BoxDataset(pictures)
    every = Pictures(dataset, Parts.of(dataset, 0), np.arange(len(dataset)), description.side)
    batches = map(collated, grouped(map(every.__getitem__, range(len(every))), BATCH_SIZE))
    result = precision(*found_and_true(network, batches, CPU))
    assert result is not None
    return result


def table(results: Sequence[Result]) -> str:
    """The table of the docs."""
    lines = ["| trained on | mAP at IoU 0.5, of each seed | mean | of the true boxes' |"]
    lines.append("|---|---|---|---|")
    means = {kind: mean(r.map_50 for r in results if r.boxes == kind) for kind in KINDS}
    for kind in KINDS:
        each = ", ".join(f"{100 * r.map_50:.1f}" for r in results if r.boxes == kind)
        share = means[kind] / means["true"]
        lines.append(f"| {TITLES[kind]} | {each} | {100 * means[kind]:.1f} | {share:.2f} |")
    return "\n".join(lines)


def main(
    to: Annotated[Path, typer.Option(help="The figures.")] = Path("docs/detector.json"),
    scenes: Annotated[int, typer.Option(min=BATCH_SIZE, help="Pictures to train on.")] = 800,
    held_out: Annotated[int, typer.Option(min=1, help="Pictures to judge with.")] = 300,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Detectors of each kind.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; they shape rounding.")] = 2,
) -> None:
    """Train detectors on the demo's pictures with three kinds of boxes and compare them."""
    torch.set_num_threads(threads)
    console, results = Console(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output, true = annotate_scenes(folder / "train", scenes, FIRST_TRAINING_SEED)
        _, judge = annotate_scenes(folder / "held-out", held_out, FIRST_HELD_OUT_SEED)
        centre = with_boxes(output, str(folder / "centre"), centre_boxes)
        for kind, boxes in {"ours": output, "true": true, "centre": centre}.items():
            for seed in range(seeds):
                start = time.monotonic()
                request = TrainRequest(
                    boxes,
                    folder / f"{kind}-{seed}",
                    backbone=load_config(folder / "train" / "config.yaml").model,
                    side=SIDE,
                    # All are trained on, and for all epochs.
                    val=0,
                    epochs=epochs,
                    batch_size=BATCH_SIZE,
                    learning_rate=PEAK_LEARNING_RATE,
                    seed=seed,
                )
                train(request, Console(quiet=True))
                found = judged(request.to, judge)
                seconds = time.monotonic() - start
                results.append(Result(kind, seed, found.ap50, found.ap, seconds))
                console.print(f"{kind}, seed {seed}: mAP {found.ap50:.3f} at IoU 0.5")
        images = len(BoxDataset(output))
    made_with = {"scenes": scenes, "held_out": held_out, "epochs": epochs, "images": images}
    document = {"made_with": made_with, "results": [asdict(result) for result in results]}
    to.write_text(json.dumps(document, indent=1) + "\n")
    console.print(table(results), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
