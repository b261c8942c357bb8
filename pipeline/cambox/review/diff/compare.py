"""Two outputs, shard by shard: two files are in memory at a time, whatever their number."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec import AbstractFileSystem

from cambox.output.columns import read_columns
from cambox.output.entries import Entries, as_numpy
from cambox.output.folders import Folder
from cambox.output.footer import Footer
from cambox.output.ledger import read_metadata
from cambox.output.reading import published_recipe, recipe_footer
from cambox.output.rows import SCHEMA
from cambox.output.serialise import DIGEST_KEY
from cambox.review.diff.match import BoxSet, match_boxes
from cambox.review.diff.report import (
    OVERLAPS,
    BoxCounts,
    Change,
    ClassChange,
    Difference,
    ImageChange,
    RowCounts,
    ShardCounts,
    Side,
    changed_settings,
    histogram,
)

COLUMNS = ("key", "shard", "status", "width", "height", "classes", "objects")
MOST_CLASSES = 200
_SIDES = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True)
class Output:
    """One of the two outputs, its files by name: the name is a function of the shard."""

    filesystem: AbstractFileSystem
    folder: Folder
    footer: Footer
    files: Mapping[str, str]

    @classmethod
    def at(cls, uri: str) -> Output:
        """The output of one recipe.

        Raises:
            RequestError: there is none, or there are several.
        """
        filesystem, folder = published_recipe(uri)
        files = {path.rsplit("/", 1)[-1]: path for path in folder.parquet}
        return cls(filesystem, folder, recipe_footer(filesystem, folder), files)

    def table(self, name: str) -> tuple[Footer, pa.Table]:
        """The rows of a file, without maps."""
        footer, batches = read_columns(self.filesystem, self.folder, self.files[name], COLUMNS)
        columns = pa.schema([SCHEMA.field(name) for name in COLUMNS])
        return footer, pa.Table.from_batches(list(batches), columns).combine_chunks()

    def data_digest(self, name: str) -> bytes | None:
        """What a file's footer says of its data."""
        return (read_metadata(self.filesystem, self.files[name]) or {}).get(DIGEST_KEY)


class _Counts:
    """What is summed up over the shards."""

    def __init__(self, class_count: int) -> None:
        self.rows = [0, 0]
        self.boxes = [0, 0]
        self.class_boxes = np.zeros((2, class_count), np.int64)
        self.both = self.changed = self.first_class_changed = 0
        self.statuses: Counter[str] = Counter()
        self.matched = self.identical = self.lost = self.gained = 0
        self.overlap = self.score_change = 0.0
        self.histogram = np.zeros(20, np.int64)
        self.above = np.zeros(len(OVERLAPS), np.int64)


def compare(
    a: Output, b: Output, pictures: int, on_file: Callable[[int], None] | None = None
) -> tuple[Difference, list[ImageChange]]:
    """Compare two outputs.

    Args:
        pictures: the number of largest changes to give back.
        on_file: called with the number of shards that both have, after each.

    Returns:
        The report, and the images that changed most, the largest change first.

    Raises:
        RequestError: a file of theirs cannot be read.
    """
    same_classes = a.footer.classes == b.footer.classes
    # Where the class lists differ, a class is its name.
    names = (
        a.footer.classes
        if same_classes
        else tuple(dict.fromkeys([*a.footer.classes, *b.footer.classes]))
    )
    common_ids = [_ids(output.footer.classes, names, same_classes) for output in (a, b)]
    counts = _Counts(len(names))
    largest: list[tuple[float, str, str, ImageChange]] = []
    shared = sorted(a.files.keys() & b.files.keys())
    identical = 0
    for name in shared:
        digest = a.data_digest(name)
        identical += digest is not None and digest == b.data_digest(name)
        for change in _compare_shard(a.table(name), b.table(name), common_ids, counts, pictures):
            entry = (change.amount, change.shard.uri, change.row_b["key"], change)
            if len(largest) < pictures:
                heapq.heappush(largest, entry)
            else:
                heapq.heappushpop(largest, entry)
        if on_file is not None:
            on_file(len(shared))
    images = [change for *_, change in sorted(largest, key=lambda entry: (-entry[0], *entry[1:3]))]
    report = Difference(
        a=_side(a, counts, 0),
        b=_side(b, counts, 1),
        settings=changed_settings(json.loads(a.footer.recipe), json.loads(b.footer.recipe)),
        same_classes=same_classes,
        shards=ShardCounts(
            both=len(shared),
            identical=identical,
            only_a=len(a.files) - len(shared),
            only_b=len(b.files) - len(shared),
        ),
        rows=RowCounts(
            both=counts.both,
            only_a=counts.rows[0] - counts.both,
            only_b=counts.rows[1] - counts.both,
            changed=counts.changed,
            statuses=dict(counts.statuses.most_common()),
            first_class_changed=counts.first_class_changed,
        ),
        boxes=_box_counts(counts),
        classes=_class_changes(counts, names),
        largest=[_change(image) for image in images],
    )
    return report, images


def _ids(own: Sequence[str], names: Sequence[str], same: bool) -> np.ndarray:
    """(K,) the common number of each of an output's own classes."""
    if same:
        return np.arange(len(own))
    number = {name: at for at, name in enumerate(names)}
    return np.array([number[name] for name in own], np.int64)


def _compare_shard(
    a: tuple[Footer, pa.Table],
    b: tuple[Footer, pa.Table],
    common_ids: Sequence[np.ndarray],
    counts: _Counts,
    pictures: int,
) -> list[ImageChange]:
    """Add one shard to the counts; its largest changes."""
    tables = a[1], b[1]
    place = {key: at for at, key in enumerate(tables[1]["key"].to_pylist())}
    in_b = np.array([place.get(key, -1) for key in tables[0]["key"].to_pylist()], np.int64)
    rows = [np.flatnonzero(in_b >= 0), in_b[in_b >= 0]]
    count = len(rows[0])
    counts.both += count
    sets = []
    for side, table in enumerate(tables):
        counts.rows[side] += table.num_rows
        boxes = _box_set(table, common_ids[side])
        counts.boxes[side] += len(boxes.image)
        counts.class_boxes[side] += np.bincount(
            boxes.class_id, minlength=counts.class_boxes.shape[1]
        )
        sets.append(_of_common_rows(boxes, rows[side], table.num_rows))
    first, second = sets
    matches = match_boxes(first, second)
    overlap = matches.overlap
    same = (first.corners[matches.first] == second.corners[matches.second]).all(axis=1)
    counts.matched += len(overlap)
    counts.identical += int(same.sum())
    counts.lost += len(first.image) - len(overlap)
    counts.gained += len(second.image) - len(overlap)
    counts.overlap += float(overlap.sum())
    counts.score_change += float((second.score[matches.second] - first.score[matches.first]).sum())
    counts.histogram += histogram(overlap)
    counts.above += np.array([(overlap >= level).sum() for level in OVERLAPS])

    amount = np.zeros(count)
    for boxes, matched in ((first, matches.first), (second, matches.second)):
        alone = np.ones(len(boxes.image), bool)
        alone[matched] = False
        np.add.at(amount, boxes.image[alone], boxes.score[alone])
    larger = np.maximum(first.score[matches.first], second.score[matches.second])
    np.add.at(amount, first.image[matches.first], (1 - overlap) * larger)

    statuses = [table["status"].take(pa.array(rows[side])) for side, table in enumerate(tables)]
    other_status = as_numpy(pc.not_equal(*statuses).combine_chunks())
    for pair in zip(
        statuses[0].filter(pa.array(other_status)).to_pylist(),
        statuses[1].filter(pa.array(other_status)).to_pylist(),
        strict=True,
    ):
        counts.statuses[" -> ".join(pair)] += 1
    counts.changed += int(((amount > 0) | other_status).sum())
    best = [_first_class(table, common_ids[side])[rows[side]] for side, table in enumerate(tables)]
    counts.first_class_changed += int((best[0] != best[1]).sum())

    top = np.argsort(-amount, kind="stable")[:pictures]
    return [
        ImageChange(
            amount=float(amount[at]),
            shard=b[0].shard,
            footer=b[0],
            row_a=tables[0].slice(int(rows[0][at]), 1).to_pylist()[0],
            row_b=tables[1].slice(int(rows[1][at]), 1).to_pylist()[0],
        )
        for at in top.tolist()
        if amount[at] > 0
    ]


def _column(table: pa.Table, name: str) -> pa.ListArray:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _box_set(table: pa.Table, common_ids: np.ndarray) -> BoxSet:
    objects, _, _ = Entries.of(_column(table, "objects"), "objects")
    return BoxSet(
        image=objects.row.astype(np.int64),
        class_id=common_ids[objects["class_id"]],
        corners=np.stack([objects[side] for side in _SIDES], axis=1).astype(np.float64),
        score=objects["box_score"].astype(np.float64),
    )


def _of_common_rows(boxes: BoxSet, rows: np.ndarray, row_count: int) -> BoxSet:
    """The boxes of these rows, their image numbered by its place among them."""
    number = np.full(row_count, -1, np.int64)
    number[rows] = np.arange(len(rows))
    image = number[boxes.image]
    kept = image >= 0
    return BoxSet(image[kept], boxes.class_id[kept], boxes.corners[kept], boxes.score[kept])


def _first_class(table: pa.Table, common_ids: np.ndarray) -> np.ndarray:
    """(rows,) the best predicted class; -1 where there is none."""
    classes, _, _ = Entries.of(_column(table, "classes"), "classes")
    first = classes["rank"] == 1
    best = np.full(table.num_rows, -1, np.int64)
    best[classes.row[first]] = common_ids[classes["class_id"][first]]
    return best


def _side(output: Output, counts: _Counts, side: int) -> Side:
    return Side(
        folder=output.folder.uri,
        recipe=output.footer.recipe_digest,
        rows=counts.rows[side],
        boxes=counts.boxes[side],
    )


def _box_counts(counts: _Counts) -> BoxCounts:
    every = counts.matched + counts.lost + counts.gained
    return BoxCounts(
        matched=counts.matched,
        identical=counts.identical,
        lost=counts.lost,
        gained=counts.gained,
        mean_overlap=counts.overlap / counts.matched if counts.matched else None,
        overlap_histogram=counts.histogram.tolist(),
        share_above={
            str(level): int(above) / every if every else 1.0
            for level, above in zip(OVERLAPS, counts.above, strict=True)
        },
        mean_score_change=counts.score_change / counts.matched if counts.matched else None,
    )


def _class_changes(counts: _Counts, names: Sequence[str]) -> list[ClassChange]:
    """The classes whose number of boxes changed, the largest change first."""
    change = np.abs(counts.class_boxes[1] - counts.class_boxes[0])
    order = np.argsort(-change, kind="stable")[:MOST_CLASSES]
    return [
        ClassChange(
            class_name=names[at],
            boxes_a=int(counts.class_boxes[0, at]),
            boxes_b=int(counts.class_boxes[1, at]),
        )
        for at in order.tolist()
        if change[at]
    ]


def _change(image: ImageChange) -> Change:
    return Change(
        key=image.row_b["key"],
        shard=image.shard.uri,
        amount=round(image.amount, 4),
        status_a=image.row_a["status"],
        status_b=image.row_b["status"],
        boxes_a=len(image.row_a["objects"]),
        boxes_b=len(image.row_b["objects"]),
        problem=None,
    )
