"""``cambox demo``: pictures with known boxes, annotated and compared, with no network."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from rich.console import Console

from cambox.console import require_folder, say, write_files
from cambox.demo import PICTURES, make_data, write_config
from cambox.demo.scenes import CLASS_NAMES
from cambox.output.dataset import read
from cambox.output.rows import StoredMap, boxes_from_arrow
from cambox.review.draw import Picture
from cambox.review.evaluate.evaluate import evaluate
from cambox.review.evaluate.figures import MAIN_IOU
from cambox.review.evaluate.report import Evaluation, Unmeasured
from cambox.review.sheet import SheetTile, draw_sheet, png
from cambox.review.truth import Truth, read_truth
from cambox.run import run
from cambox.sources.decode import decode_image
from cambox.summary import RunSummary, print_summary

MAX_PIXELS = 10**8
SHEET_TILES = 12


def run_demo(folder: Path, console: Console) -> RunSummary:
    """Make pictures, pack, annotate, compare with the true boxes, and draw a contact sheet.

    A second run over the same folder finds its work done and only compares again.

    Raises:
        RequestError: the folder cannot be written.
    """
    require_folder(folder)
    if not any((folder / "shards").glob("*.tar")):
        with console.status(f"making {PICTURES} pictures"):
            make_data(folder)
        say(console, f"made {PICTURES} pictures of one to three objects and packed them")
    summary = run(write_config(folder), console)
    print_summary(summary, console)
    if not summary.complete:
        return summary
    rows = read(summary.folder).to_table().sort_by("key").slice(0, SHEET_TILES)
    boxes = folder / "boxes.csv"
    truth = read_truth(str(boxes), CLASS_NAMES)
    _print_comparison(evaluate(summary.folder, str(boxes), sweep_thresholds=False), console)
    (sheet,) = write_files(folder, {"sheet.png": png(_sheet(folder, rows, truth))})
    say(
        console,
        f"look at: {sheet}  (dashed: true boxes)",
        f"more figures: cambox evaluate {folder / 'boxes'} --truth {boxes}",
        "next: cambox pack YOUR_IMAGES --to shards/, then cambox annotate with one of cambox "
        f"recipes, or change {folder / 'config.yaml'} and run cambox annotate on it",
    )
    return summary


def _print_comparison(evaluation: Evaluation, console: Console) -> None:
    known = evaluation.gt_known
    assert not isinstance(known, Unmeasured)
    hits = known[MAIN_IOU].share
    (boxes,) = evaluation.detection
    say(
        console,
        "against the true boxes, IoU 0.5 or more:",
        f"  {hits.output.value:6.1%} of {evaluation.counts.pairs} (image, class) pairs are hit by "
        "the class's largest box",
        f"  {hits.centre_box.value:6.1%} would be by a box in the middle, 0.8 of each side",
        f"  {boxes.recall.output.value:6.1%} of all {boxes.true_boxes} objects are found by a box "
        "of their class",
    )


def _sheet(folder: Path, rows: pa.Table, truth: Truth) -> Picture:
    boxes = boxes_from_arrow(rows["objects"])
    tiles = []
    for place, row in enumerate(rows.to_pylist()):
        # One class a tile, and all classes of the picture in turn over the tiles.
        label = row["labels"][place % len(row["labels"])]
        stored = next(entry for entry in row["maps"] if entry["class_id"] == label)
        shown = boxes[(boxes.image == place) & (boxes.class_id == label)]
        true = truth.images[f"{row['key']}.jpg"]
        image = (folder / "images" / row["key"]).with_suffix(".jpg")
        name = CLASS_NAMES[label] if len(shown) else "nothing found"
        tiles.append(
            SheetTile(
                image=decode_image(image.read_bytes(), MAX_PIXELS),
                title=f"{row['key']}: {name}",
                score_map=StoredMap(**stored).restore(),
                boxes=shown,
                true_boxes=true[true.class_id == label],
            )
        )
    return draw_sheet(tiles, CLASS_NAMES)
