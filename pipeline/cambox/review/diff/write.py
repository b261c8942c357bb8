"""What a person, or a program, sees of a difference."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cambox.errors import RequestError
from cambox.output.publish import publish_bytes
from cambox.review.diff.report import Difference
from cambox.review.sheet import SheetTile, draw_sheet, write_sheet

SHEET_COLUMNS = 2
SHEET_TILE_WIDTH = 640
CLASSES_NAMED = 10
SETTINGS_NAMED = 20
_BAR = 40
_LEGEND = "left: boxes of A    right: boxes of B    with class and box_score"


def write_difference(report: Difference, tiles: list[SheetTile], folder: Path) -> list[Path]:
    """Write ``diff.json``, and ``diff.png`` where there are pictures.

    Raises:
        RequestError: they cannot be written.
    """
    document, sheet = folder / "diff.json", folder / "diff.png"
    try:
        publish_bytes(str(document.absolute()), report.model_dump_json(indent=1).encode() + b"\n")
        if tiles:
            write_sheet(sheet, draw_sheet(tiles, SHEET_COLUMNS, SHEET_TILE_WIDTH, _LEGEND))
        else:
            # One of an earlier comparison would be of other images.
            sheet.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be written: {error.strerror}") from error
    return [document, sheet] if tiles else [document]


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
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
