"""``cambox demo``: pictures with known boxes, annotated and compared, with no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset
import yaml
from rich.console import Console

from cambox.config import Config
from cambox.config_file import load_config
from cambox.demo import network
from cambox.demo.scenes import CLASS_NAMES, write_scenes
from cambox.errors import RequestError
from cambox.output.rows import StoredMap
from cambox.review.draw import Box
from cambox.review.evaluate.evaluate import evaluate
from cambox.review.evaluate.localisation import MAIN_IOU
from cambox.review.evaluate.report import Evaluation, Unmeasured
from cambox.review.overlap import SIDES
from cambox.review.sheet import SheetTile, draw_sheet, write_sheet
from cambox.review.truth import Truth, read_truth
from cambox.run import RunSummary, print_summary, run
from cambox.sources.decode import decode_image
from cambox.sources.pack import pack

PICTURES = 240
# The classifier was trained on the pictures of seeds from a million on.
FIRST_SEED = 0
SAMPLES_PER_SHARD = 60
MAX_PIXELS = 10**8
SHEET_TILES = 12
SHEET_COLUMNS = 3
SHEET_TILE_WIDTH = 560


def run_demo(folder: Path, console: Console) -> RunSummary:
    """Make pictures, pack, annotate, compare with the true boxes, and draw a contact sheet.

    A second run over the same folder finds its work done and only compares again.

    Raises:
        RequestError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be made: {error.strerror}") from error
    if not any((folder / "shards").glob("*.tar")):
        with console.status(f"making {PICTURES} pictures"):
            write_scenes(folder, PICTURES, FIRST_SEED)
            pack(folder / "images", folder / "shards", folder / "labels.csv", SAMPLES_PER_SHARD)
        console.print(f"made {PICTURES} pictures of one to three objects and packed them")
    summary = run(write_config(folder), console)
    print_summary(summary, console)
    if not summary.complete:
        return summary
    rows = pyarrow.dataset.dataset(summary.folder).to_table().sort_by("key").to_pylist()
    boxes = folder / "boxes.csv"
    truth = read_truth(str(boxes), CLASS_NAMES)
    _print_comparison(evaluate(summary.folder, str(boxes), sweep_thresholds=False), console)
    sheet = folder / "sheet.png"
    write_sheet(sheet, _sheet(folder, rows[:SHEET_TILES], truth))
    console.print(
        f"look at: {sheet}  (dashed: true boxes)\n"
        f"more figures: cambox evaluate {folder / 'boxes'} --truth {boxes}\n"
        f"next: cambox pack YOUR_IMAGES --to shards/, then cambox annotate with a recipe of "
        f"configs/, or change {folder / 'config.yaml'} and run cambox annotate on it",
        highlight=False,
        soft_wrap=True,
    )
    return summary


def write_config(folder: Path) -> Config:
    """Write the demo's recipe into its folder, for a user to change and run again."""
    document: dict[str, Any] = {
        "input": {"shards": [str(folder / "shards" / "shard-*.tar")]},
        "model": {
            "name": network.MODEL_NAME,
            "kwargs": network.MODEL_KWARGS,
            "checkpoint": str(Path(__file__).with_name(network.CHECKPOINT)),
            "input_size": network.INPUT_SIZE,
            "mean": list(network.MEAN),
            "std": list(network.STD),
            "activation": "sigmoid",
            "class_names": str(folder / "class_names.txt"),
        },
        "cam": {"classes": "label", "top_k": 3},
        "boxes": {"threshold": network.THRESHOLD, "percentile": network.PERCENTILE},
        "output": {"uri": str(folder / "boxes"), "store_maps": True},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return load_config(path)


def _print_comparison(evaluation: Evaluation, console: Console) -> None:
    known = evaluation.gt_known
    assert not isinstance(known, Unmeasured)
    hits = known[MAIN_IOU].share
    (boxes,) = evaluation.detection
    console.print(
        f"against the true boxes, IoU 0.5 or more:\n"
        f"  {hits.output.value:6.1%} of {evaluation.counts.pairs} (image, class) pairs are hit by "
        "the class's largest box\n"
        f"  {hits.centre_box.value:6.1%} would be by a box in the middle, 0.8 of each side\n"
        f"  {boxes.recall.output.value:6.1%} of all {boxes.true_boxes} objects are found by a box "
        "of their class",
        highlight=False,
        soft_wrap=True,
    )


def _sheet(folder: Path, rows: Sequence[dict[str, Any]], truth: Truth) -> Any:
    tiles: list[SheetTile] = []
    for row in rows:
        # One class a tile, and all classes of the picture in turn over the tiles.
        label = row["labels"][len(tiles) % len(row["labels"])]
        stored = next(entry for entry in row["maps"] if entry["class_id"] == label)
        boxes = tuple(
            Box(
                **{side: box[side] for side in SIDES},
                label=box["class_name"],
                score=box["box_score"],
            )
            for box in row["objects"]
            if box["class_id"] == label
        )
        shown = truth.images[f"{row['key']}.jpg"]
        assert shown.classes is not None
        image = (folder / "images" / row["key"]).with_suffix(".jpg")
        name = boxes[0].label if boxes else "nothing found"
        tiles.append(
            SheetTile(
                image=decode_image(image.read_bytes(), MAX_PIXELS),
                title=f"{row['key']}: {name}",
                score_map=StoredMap(**stored).restore(),
                boxes=boxes,
                true_boxes=tuple(map(tuple, shown.boxes[shown.classes == label].tolist())),
            )
        )
    return draw_sheet(tiles, SHEET_COLUMNS, SHEET_TILE_WIDTH)
