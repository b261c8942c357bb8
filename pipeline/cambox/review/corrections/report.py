"""What a review file gave: as a table, as JSON, and as a file of true boxes."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cambox.console import counted, say, write_files
from cambox.errors import RequestError, some_of
from cambox.output.rows import SIDES
from cambox.output.whole import publish_bytes
from cambox.review.corrections.take import Taken
from cambox.review.corrections.tally import OUTCOMES, SCORE_BINS

_CLASSES_SHOWN = 20
_HEADINGS = {"class_changed": "class changed"}


def to_json(taken: Taken) -> dict[str, Any]:
    """The same for machines, in plain types."""
    tally, by_score = taken.tally, taken.tally.by_score
    return {
        "output": taken.recipe.uri,
        "recipe": taken.recipe.footer.recipe_digest,
        "kind": taken.review.kind,
        "reviewed_rows": len(taken.rows),
        "complete_rows": sum(row.complete for row in taken.rows),
        "rows_with_unjudged_boxes": taken.unjudged,
        "boxes": _counts(tally.total),
        "by_class": {name: _counts(counts) for name, counts in _by_frequency(taken)},
        "by_score": [
            {
                "from": bin_ / SCORE_BINS,
                "to": (bin_ + 1) / SCORE_BINS,
                **_counts(by_score[bin_]),
            }
            for bin_ in range(SCORE_BINS)
        ],
        "not_matched": taken.unmatched,
        "unknown_classes": dict(taken.unknown_classes),
        "left_out": dict(taken.left_out),
    }


def write_report(taken: Taken, folder: Path) -> list[Path]:
    """Write ``corrections.json``."""
    data = json.dumps(to_json(taken), indent=1, ensure_ascii=False).encode() + b"\n"
    return write_files(folder, {"corrections.json": data})


def write_truth(taken: Taken, path: Path) -> int:
    """Write the boxes of completely reviewed rows as ``--truth`` takes them, and count the rows.

    COCO where the name ends in ``.json``, else CSV, in which a picture without an object has one
    box of no size.

    Raises:
        RequestError: it cannot be written, or two rows have one key.
    """
    rows = [row for row in taken.rows if row.complete]
    twice = [key for key, times in Counter(row.key for row in rows).items() if times > 1]
    if twice:
        raise RequestError(
            f"--truth-to: {some_of(twice)}: samples of several shards have this key, and a truth "
            "file names images by it; give the samples keys of their own"
        )
    boxes = [[_box(one) for one in row.objects] for row in rows]
    if path.suffix.lower() == ".json":
        names = taken.recipe.footer.classes
        document = {
            "images": [
                {"id": number, "file_name": row.key, "width": row.width, "height": row.height}
                for number, row in enumerate(rows, 1)
            ],
            "annotations": [
                {
                    "id": 0,
                    "image_id": number,
                    "category_id": class_id,
                    "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
                    "area": (x_max - x_min) * (y_max - y_min),
                    "iscrowd": 0,
                }
                for number, own in enumerate(boxes, 1)
                for x_min, y_min, x_max, y_max, class_id in own
            ],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        }
        for number, annotation in enumerate(document["annotations"], 1):
            annotation["id"] = number
        text = json.dumps(document, ensure_ascii=False) + "\n"
    else:
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("image", *SIDES, "class_index"))
        for row, own in zip(rows, boxes, strict=True):
            writer.writerows((row.key, *box) for box in own or [[0, 0, 0, 0, 0]])
        text = buffer.getvalue()
    try:
        publish_bytes(str(path.absolute()), text.encode())
    except OSError as error:
        raise RequestError(f"--truth-to: {path} cannot be written: {error}") from error
    return len(rows)


def _box(one: Any) -> list[float]:
    return [*(round(one[side], 3) for side in SIDES), one["class_id"]]


def print_taken(taken: Taken, console: Console) -> None:
    """Counts by class and by score, and what has no place in the output."""
    review, rows = taken.review, taken.rows
    unjudged = f"; {taken.unjudged} have boxes that nobody judged" if taken.unjudged else ""
    say(
        console,
        f"{review.kind}: {counted(len(rows), 'row')} reviewed, kept in {taken.output}{unjudged}",
    )
    if tally := taken.tally.by_class:
        table = _table("class")
        for name, counts in _by_frequency(taken)[:_CLASSES_SHOWN]:
            table.add_row(name, *_cells(counts))
        if len(tally) > _CLASSES_SHOWN:
            table.add_row("all classes", *_cells(taken.tally.total))
        console.print(table)
        table = _table("box_score")
        for bin_ in sorted(taken.tally.by_score):
            counts = taken.tally.by_score[bin_]
            table.add_row(
                f"{bin_ / SCORE_BINS:.1f} to {(bin_ + 1) / SCORE_BINS:.1f}", *_cells(counts)
            )
        console.print(table)
    if not review.adds_boxes:
        say(console, "the gallery shows which boxes are wrong, not which are missing")
    for what, count in taken.left_out.items():
        say(console, f"left out: {count} {what}")
    if taken.unknown_classes:
        names = some_of([f"{name} ({count})" for name, count in taken.unknown_classes.items()])
        say(console, f"boxes of classes that the recipe does not have: {names}")
    if taken.unmatched:
        named = some_of([f"{name}: {why}" for name, why in taken.unmatched.items()])
        say(console, f"{counted(len(taken.unmatched), 'image')} not taken: {named}")


def _by_frequency(taken: Taken) -> list[tuple[str, Counter[str]]]:
    every = taken.tally.by_class.items()
    return sorted(every, key=lambda entry: (-entry[1].total(), entry[0]))


def _counts(counts: Counter[str]) -> dict[str, Any]:
    pseudo = counts.total() - counts["added"]
    accepted = counts["kept"] + counts["moved"]
    return {
        "pseudo_boxes": pseudo,
        "accepted": accepted,
        "rejected": pseudo - accepted,
        **{outcome: counts[outcome] for outcome in OUTCOMES},
    }


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in ("accepted", *OUTCOMES):
        table.add_column(_HEADINGS.get(name, name), justify="right", no_wrap=True)
    return table


def _cells(counts: Counter[str]) -> list[str]:
    pseudo = counts.total() - counts["added"]
    accepted = counts["kept"] + counts["moved"]
    share = f"{accepted / pseudo:.0%} of {pseudo}" if pseudo else "-"
    return [share, *(str(counts[outcome]) for outcome in OUTCOMES)]
