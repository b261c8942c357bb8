"""The rows of an output beside the true boxes of their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.boxes import Boxes, best_overlaps, place_in_group
from cambox.errors import RequestError
from cambox.output.reading import PublishedRecipe
from cambox.output.rows import SIDES, StoredMap, boxes_from_arrow
from cambox.review.truth import Truth
from cambox.review.truth_formats import UNKNOWN_CLASS

OK = "ok"

_OF_BOXES = ("class_id", "rank", "component", "class_score", "box_score", *SIDES)
_COLUMNS = (
    *("key", "shard", "status", "width", "height", "labels", "classes"),
    *(f"objects.list.element.{name}" for name in _OF_BOXES),
)


@dataclass(frozen=True)
class RowWithTruth:
    """One row, with the true boxes of its image.

    Attributes:
        size: (height, width) in pixels; None where the image could not be read.
        labels: the classes given with the sample; empty where there are none.
        first_class: the best predicted class; None where nothing was predicted.
        boxes: the pseudo boxes, in pixels.
        true_boxes: in pixels, ascending by class; where the file says no classes each is there
            for each label, or once with ``UNKNOWN_CLASS``.
        maps: as stored; empty where they were not asked for.
        class_scores: of each map, the probability of its class; NaN where the row does not tell
            it: of a label beyond the model's top-k that no box is left of.
    """

    key: str
    status: str
    size: tuple[int, int] | None
    labels: tuple[int, ...]
    first_class: int | None
    boxes: Boxes
    true_boxes: Boxes
    maps: tuple[StoredMap, ...] = ()
    class_scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class RowsWithTruth:
    """What there is to compare.

    Attributes:
        rows: those with a place in the truth, in the order of the output.
        total: rows of the output.
        without_row: images of the truth that the output has no row for.
        first_key: of the output; None where it has no row.
    """

    rows: tuple[RowWithTruth, ...]
    total: int
    without_row: tuple[str, ...]
    first_key: str | None


def read_rows(
    recipe: PublishedRecipe,
    truth: Truth,
    with_maps: bool = False,
    on_file: Callable[[int], None] | None = None,
) -> RowsWithTruth:
    """Read the rows whose images have true boxes; the others are only counted.

    Args:
        on_file: called with the number of files, after each.

    Raises:
        RequestError: a file is damaged, or an image of the truth has two rows.
    """
    rows: list[RowWithTruth] = []
    shard_of: dict[str, str] = {}
    total = 0
    first_key: str | None = None
    keys = pa.array(truth.keys, pa.string())
    for batch in recipe.batches((*_COLUMNS, "maps") if with_maps else _COLUMNS, on_file):
        total += batch.num_rows
        if first_key is None and batch.num_rows:
            first_key = batch["key"][0].as_py()
        wanted = batch.filter(pc.is_in(batch["key"], value_set=keys))
        rows += _rows(wanted, truth, shard_of)
    without_row = tuple(name for name in truth.images if name not in shard_of)
    return RowsWithTruth(tuple(rows), total, without_row, first_key)


def _rows(batch: pa.RecordBatch, truth: Truth, shard_of: dict[str, str]) -> Iterator[RowWithTruth]:
    boxes = boxes_from_arrow(batch["objects"])
    ends = np.searchsorted(boxes.image, np.arange(batch.num_rows), side="right").tolist()
    others = [name for name in batch.schema.names if name != "objects"]
    for row, start, end in zip(batch.select(others).to_pylist(), [0, *ends], ends, strict=False):
        name = truth.name_of(row["key"])
        assert name is not None
        if name in shard_of:
            raise RequestError(
                f"--truth: {name!r} has a row of {shard_of[name]} and one of {row['shard']}; "
                "give the samples keys of their own"
            )
        shard_of[name] = row["shard"]
        mine = boxes[start:end]
        scores = dict(zip(mine.class_id.tolist(), mine.class_score.tolist(), strict=True))
        scores |= {entry["class_id"]: entry["probability"] for entry in row["classes"]}
        labels = tuple(dict.fromkeys(row["labels"] or ()))
        maps = tuple(StoredMap(**entry) for entry in row.get("maps", ()))
        first = (entry["class_id"] for entry in row["classes"] if entry["rank"] == 1)
        yield RowWithTruth(
            key=row["key"],
            status=row["status"],
            size=None if row["width"] is None else (row["height"], row["width"]),
            labels=labels,
            first_class=next(first, None),
            boxes=mine,
            true_boxes=_by_class(truth.images[name], labels),
            maps=maps,
            class_scores=tuple(scores.get(one.class_id, float("nan")) for one in maps),
        )


def _by_class(boxes: Boxes, labels: Sequence[int]) -> Boxes:
    if labels and (boxes.class_id == UNKNOWN_CLASS).all():
        classes = np.repeat(sorted(labels), len(boxes))
        return Boxes.joined([boxes] * len(labels)).with_columns(class_id=classes)
    return boxes[np.argsort(boxes.class_id, kind="stable")]


def numbered(parts: Iterable[Boxes]) -> Boxes:
    """All boxes of all parts, ``image`` being the place of their part."""
    listed = list(parts)
    places = np.repeat(np.arange(len(listed)), [len(part) for part in listed])
    return Boxes.joined(listed).with_columns(image=places)


def pair_starts(true_boxes: Boxes) -> np.ndarray:
    """(p,) the place of the first true box of each image and class; they ascend by both."""
    return np.flatnonzero(place_in_group(true_boxes.image, true_boxes.class_id) == 0)


def pair_overlaps(true_boxes: Boxes, boxes: Boxes) -> np.ndarray:
    """(p,) for each image and class, the best IoU of its boxes with a true one; 0 for none."""
    best: np.ndarray = np.maximum.reduceat(
        best_overlaps(true_boxes, boxes), pair_starts(true_boxes)
    )
    return best
