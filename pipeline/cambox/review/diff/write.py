"""What a person, or a program, sees of a difference: text, JSON, and pictures side by side."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from rich.console import Console

from cambox.console import say, write_files
from cambox.review.diff.compare import Comparison
from cambox.review.diff.report import Difference
from cambox.review.draw import Picture
from cambox.review.pictures import ShownPicture, read_pictures
from cambox.review.sheet import SheetTile, draw_sheet, png, shrunk
from cambox.sources.shards import Shard

SHEET_COLUMNS = 2
SHEET_TILE_WIDTH = 640
CLASSES_NAMED = 10
SETTINGS_NAMED = 20
_BAR = 40
_LEGEND = "left: boxes of A    right: boxes of B    with class and box_score"


def draw_changes(comparison: Comparison) -> tuple[Difference, Picture | None]:
    """Draw the largest changes whose picture can be read; every shard is read once.

    Returns:
        The report, with the reasons why some of its largest changes have no picture; and the boxes
        of A beside those of B, (H, W, 3) uint8 RGB, or None where there is no picture.
    """
    sizes: dict[Shard, dict[str, tuple[int, int]]] = defaultdict(dict)
    for image in comparison.images:
        if image.row["width"] is not None:
            sizes[image.shard][image.change.key] = image.row["width"], image.row["height"]
    shown = {
        (shard, picture.key): picture
        for shard, of_shard in sizes.items()
        for picture in read_pictures(shard, of_shard, comparison.max_pixels)
    }
    tiles, largest = [], []
    for image in comparison.images:
        key, why = image.change.key, image.row["error"] or "it could not be decoded"
        picture = shown.get((image.shard, key)) or ShownPicture(key, None, why)
        largest.append(image.change.model_copy(update={"problem": picture.problem}))
        if picture.pixels is not None:
            title = f"{key}: changed by {image.amount:.2f}"
            before, after = image.boxes
            tile = SheetTile(picture.pixels, title, score_map=None, boxes=before, after=after)
            tiles.append(shrunk(tile))
    report = comparison.report.model_copy(update={"largest": largest})
    if not tiles:
        return report, None
    names = comparison.class_names
    return report, draw_sheet(tiles, names, SHEET_COLUMNS, SHEET_TILE_WIDTH, _LEGEND)


def write_difference(report: Difference, sheet: Picture | None, folder: Path) -> list[Path]:
    """Write ``diff.json``, and ``diff.png`` where there are pictures.

    Raises:
        RequestError: they cannot be written.
    """
    document = report.model_dump_json(indent=1).encode() + b"\n"
    drawn = None if sheet is None else png(sheet)
    return write_files(folder, {"diff.json": document, "diff.png": drawn})


def print_difference(report: Difference, console: Console) -> None:
    """The report on the terminal, the whole before the parts."""
    rows, boxes, shards = report.rows, report.boxes, report.shards
    lines = [f"A: {report.a.folder}", f"B: {report.b.folder}"]
    for key, (before, after) in list(report.settings.items())[:SETTINGS_NAMED]:
        lines.append(f"  {key}: {before} -> {after}")
    if not report.settings:
        lines.append("  the same settings")
    if not report.same_classes:
        lines.append("  the class lists differ; boxes are compared by the names of their classes")
    lines += [
        f"shards: {shards.both} in both ({shards.identical} identical), {shards.only_a} only in A, "
        f"{shards.only_b} only in B; what follows is of those in both",
        f"rows: {rows.both} in both, {rows.changed} of them changed; {rows.only_a} only in A, "
        f"{rows.only_b} only in B",
    ]
    lines += [f"  {pair}: {count}" for pair, count in rows.statuses.items()]
    lines += [
        f"best predicted class: another one in {rows.first_class_changed} rows",
        f"boxes: {report.a.boxes} in A, {report.b.boxes} in B; of rows in both {boxes.matched} "
        f"matched ({boxes.identical} identical), {boxes.lost} lost, {boxes.gained} gained",
    ]
    if boxes.mean_overlap is not None and boxes.mean_score_change is not None:
        lines.append(
            f"matched boxes: mean IoU {boxes.mean_overlap:.3f}, box_score changed by "
            f"{boxes.mean_score_change:+.4f} on average"
        )
        longest = max(boxes.overlap_histogram)
        for step, count in enumerate(boxes.overlap_histogram):
            bar = "█" * round(_BAR * count / longest)
            lines.append(f"  IoU {step / 20:.2f} to {(step + 1) / 20:.2f} {count:>9} {bar}")
    if report.classes:
        lines.append("boxes by class, the largest changes:")
        for one in report.classes[:CLASSES_NAMED]:
            more = one.boxes_b - one.boxes_a
            lines.append(f"  {one.class_name}: {one.boxes_a} -> {one.boxes_b} ({more:+d})")
    for change in report.largest:
        if change.problem is not None:
            lines.append(f"no picture of {change.key}: {change.problem}")
    say(console, *lines)
