"""Two outputs, shard by shard: two files are in memory at a time, whatever their number."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.boxes import Boxes
from cambox.console import Advance
from cambox.output.published_file import PublishedFile
from cambox.output.reading import PublishedRecipe
from cambox.output.rows import Entries, as_numpy, boxes_from_arrow
from cambox.review.diff.report import (
    Difference,
    RowCounts,
    ShardCounts,
    Side,
    Sums,
    changed_settings,
)
from cambox.review.diff.write import ImageChange, draw_changes
from cambox.review.draw import Picture
from cambox.sources.shards import Shard

COLUMNS = ("key", "status", "error", "width", "height", "classes", "objects")


@dataclass(frozen=True)
class _Rows:
    """The rows of one file, their classes numbered as in both outputs.

    Attributes:
        table: but for the columns that follow.
        best: (n,) the best predicted class; -1 where there is none.
    """

    table: pa.Table
    boxes: Boxes
    best: np.ndarray

    @classmethod
    def of(cls, file: PublishedFile, common_ids: np.ndarray) -> _Rows:
        table = file.table(COLUMNS)
        boxes = boxes_from_arrow(table["objects"])
        boxes = boxes.with_columns(class_id=common_ids[boxes.class_id])
        classes = Entries.of(table["classes"], "classes")
        first = classes["rank"] == 1
        best = np.full(table.num_rows, -1, np.int64)
        best[classes.row[first]] = common_ids[classes["class_id"][first]]
        return cls(table.drop_columns(["classes", "objects"]), boxes, best)

    def at(self, places: np.ndarray) -> _Rows:
        """Some of the rows; the boxes' image is the place among them."""
        number = np.full(self.table.num_rows, -1, np.int64)
        number[places] = np.arange(len(places))
        boxes = self.boxes.with_columns(image=number[self.boxes.image])
        return _Rows(self.table.take(pa.array(places)), boxes[boxes.image >= 0], self.best[places])


def compare(
    a: PublishedRecipe, b: PublishedRecipe, pictures: int, on_file: Advance | None = None
) -> tuple[Difference, Picture | None]:
    """Compare two outputs.

    Args:
        pictures: the number of largest changes to report and to draw, from the shards.
        on_file: called with the number of shards that both have, after each.

    Returns:
        The report, and the changes that it names in pictures, see ``draw_changes``.

    Raises:
        RequestError: a file of theirs cannot be read.
    """
    same_classes = a.footer.classes == b.footer.classes
    names, ids_a, ids_b = common_classes(a, b)
    # A file's name is a function of its shard's URI.
    files_a, files_b = ({file.name: file for file in recipe.files} for recipe in (a, b))
    shared = sorted(files_a.keys() & files_b.keys())
    sums = Sums(len(names))
    images: list[ImageChange] = []
    identical = 0
    for name in shared:
        one, two = files_a[name], files_b[name]
        identical += one.data_digest is not None and one.data_digest == two.data_digest
        rows = _Rows.of(one, ids_a), _Rows.of(two, ids_b)
        found = _compare_shard(two.shard, *rows, sums, pictures)
        images = heapq.nsmallest(
            pictures,
            [*images, *found],
            key=lambda image: (-image.amount, image.shard.uri, image.row["key"]),
        )
        if on_file is not None:
            on_file(len(shared))
    sides = [
        Side(
            folder=recipe.uri,
            recipe=recipe.footer.recipe_digest,
            rows=sums.rows["both"] + sums.rows[only],
            boxes=int(boxes.sum()),
        )
        for recipe, only, boxes in zip((a, b), ("only_a", "only_b"), sums.class_boxes, strict=True)
    ]
    largest, sheet = draw_changes(images, names, b.settings["input"]["max_pixels"], b.image_rule)
    report = Difference(
        a=sides[0],
        b=sides[1],
        settings=changed_settings(a.settings, b.settings),
        same_classes=same_classes,
        shards=ShardCounts(
            both=len(shared),
            identical=identical,
            only_a=len(files_a) - len(shared),
            only_b=len(files_b) - len(shared),
        ),
        rows=RowCounts(**sums.rows, statuses=dict(sums.statuses.most_common())),
        boxes=sums.box_counts(),
        classes=sums.class_changes(names),
        largest=largest,
    )
    return report, sheet


def common_classes(
    a: PublishedRecipe, b: PublishedRecipe
) -> tuple[Sequence[str], np.ndarray, np.ndarray]:
    """The classes of two outputs, and (K,) the number among them of each of A's and of B's own.

    Where the class lists differ, a class is its name.
    """
    if a.footer.classes == b.footer.classes:
        own = np.arange(len(a.footer.classes))
        return a.footer.classes, own, own
    number = {
        name: at for at, name in enumerate(dict.fromkeys([*a.footer.classes, *b.footer.classes]))
    }
    ids_a, ids_b = (
        np.array([number[name] for name in recipe.footer.classes], np.int64) for recipe in (a, b)
    )
    return tuple(number), ids_a, ids_b


def _compare_shard(
    shard: Shard, all_a: _Rows, all_b: _Rows, sums: Sums, pictures: int
) -> list[ImageChange]:
    """Add one shard to the sums; its largest changes."""
    keys_a, keys_b = all_a.table["key"], all_b.table["key"]
    in_b = as_numpy(pc.index_in(keys_a, value_set=keys_b).fill_null(-1).combine_chunks())
    a, b = all_a.at(np.flatnonzero(in_b >= 0)), all_b.at(in_b[in_b >= 0])
    amount = sums.add_pairs(a.boxes, b.boxes, len(a.best))
    before, after = (np.array(rows.table["status"].to_pylist(), object) for rows in (a, b))
    other = before != after
    sums.statuses.update(
        f"{old} -> {new}" for old, new in zip(before[other], after[other], strict=True)
    )
    sums.rows.update(
        both=len(a.best),
        only_a=len(keys_a) - len(a.best),
        only_b=len(keys_b) - len(a.best),
        changed=int((other | (amount > 0)).sum()),
        first_class_changed=int((a.best != b.best).sum()),
    )
    sums.class_boxes += [
        np.bincount(every.boxes.class_id, minlength=sums.class_boxes.shape[1])
        for every in (all_a, all_b)
    ]
    largest = np.argsort(-amount, kind="stable")[:pictures]
    return [
        ImageChange(
            amount=float(amount[at]),
            shard=shard,
            row=b.table.slice(at, 1).to_pylist()[0],
            status_a=before[at],
            boxes=(a.boxes[a.boxes.image == at], b.boxes[b.boxes.image == at]),
        )
        for at in largest[amount[largest] > 0].tolist()
    ]
