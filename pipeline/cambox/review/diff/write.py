"""What a person, or a program, sees of a difference: text, JSON, and pictures side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cambox.boxes import Boxes
from cambox.console import say, write_files
from cambox.review.diff.report import Change, Difference
from cambox.review.draw import Picture
from cambox.review.pictures import ShownPicture, read_pictures
from cambox.review.sheet import SheetTile, draw_sheet, png, shrunk
from cambox.sources.samples import ImageRule
from cambox.sources.shards import Shard

SHEET_COLUMNS = 2
SHEET_TILE_WIDTH = 640
CLASSES_NAMED = 10
SETTINGS_NAMED = 20
_BAR = 40
_LEGEND = "left: boxes of A    right: boxes of B    with class and box_score"


@dataclass(frozen=True)
class ImageChange:
    """An image whose boxes changed, with what is needed to draw it.

    Attributes:
        shard: as the footer in B describes it.
        row: key, status, error, width and height in B.
        status_a: of its row in A.
        boxes: of A and of B.
    """

    amount: float
    shard: Shard
    row: dict[str, Any]
    status_a: str
    boxes: tuple[Boxes, Boxes]


def draw_changes(
    images: Sequence[ImageChange], class_names: Sequence[str], max_pixels: int, rule: ImageRule
) -> tuple[list[Change], Picture | None]:
    """Draw the changes whose picture can be read; every shard is read once.

    Args:
        class_names: by the boxes' class ids.
        max_pixels, rule: of B's recipe.

    Returns:
        The changes, with the reasons why some have no picture; and the boxes of A beside those of
        B, (H, W, 3) uint8 RGB, or None where there is no picture.
    """
    sizes: dict[Shard, dict[str, tuple[int, int]]] = defaultdict(dict)
    for image in images:
        if image.row["width"] is not None:
            sizes[image.shard][image.row["key"]] = image.row["width"], image.row["height"]
    shown = {
        (shard, picture.key): picture
        for shard, of_shard in sizes.items()
        for picture in read_pictures(shard, of_shard, max_pixels, rule)
    }
    tiles, changes = [], []
    for image in images:
        key, why = image.row["key"], image.row["error"] or "it could not be decoded"
        picture = shown.get((image.shard, key)) or ShownPicture(key, None, why)
        before, after = image.boxes
        change = Change(
            key=key,
            shard=image.shard.uri,
            amount=round(image.amount, 4),
            status_a=image.status_a,
            status_b=image.row["status"],
            boxes_a=len(before),
            boxes_b=len(after),
            problem=picture.problem,
        )
        changes.append(change)
        if picture.pixels is not None:
            title = f"{key}: changed by {image.amount:.2f}"
            tile = SheetTile(picture.pixels, title, score_map=None, boxes=before, after=after)
            tiles.append(shrunk(tile))
    if not tiles:
        return changes, None
    return changes, draw_sheet(tiles, class_names, SHEET_COLUMNS, SHEET_TILE_WIDTH, _LEGEND)


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
