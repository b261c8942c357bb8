"""What two outputs have in common and what not: counted over their shards, and as a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from cambox.boxes import Boxes, pairs_by_overlap

OVERLAPS = (0.3, 0.5, 0.7, 0.9)
MOST_CLASSES = 200
_STEPS = np.linspace(0, 1, 21)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Part):
    """One of the two outputs.

    Attributes:
        rows, boxes: of the shards that both have.
    """

    folder: str
    recipe: str
    rows: int
    boxes: int


class ShardCounts(_Part):
    """Shards by where they are; ``identical`` are those of ``both`` with the same data."""

    both: int
    identical: int
    only_a: int
    only_b: int


class RowCounts(_Part):
    """Rows of the shards that both have, joined by key.

    Attributes:
        changed: of ``both``, with another status, or other boxes.
        statuses: of ``both``, "status in A -> status in B", where they differ.
        first_class_changed: of ``both``, the best predicted class is another.
    """

    both: int
    only_a: int
    only_b: int
    changed: int
    statuses: dict[str, int]
    first_class_changed: int


class BoxCounts(_Part):
    """Boxes of rows that both have, matched within image and class.

    Attributes:
        identical: of ``matched``, with the same corners.
        lost, gained: boxes of A, of B, that overlap none of the other.
        mean_overlap: IoU over ``matched``; None where there is none.
        overlap_histogram: ``matched`` by IoU in 20 equal steps from 0 to 1.
        share_above: of all boxes of both sides (a pair counts once), the share of pairs with an
            IoU of at least so much.
        mean_score_change: box_score in B minus that in A, over ``matched``.
    """

    matched: int
    identical: int
    lost: int
    gained: int
    mean_overlap: float | None
    overlap_histogram: list[int]
    share_above: dict[str, float]
    mean_score_change: float | None


class ClassChange(_Part):
    """The boxes of one class in all rows of the shards that both have."""

    class_name: str
    boxes_a: int
    boxes_b: int


class Change(_Part):
    """An image whose boxes changed.

    Attributes:
        amount: over its boxes, box_score x (1 - IoU); 1 - IoU is 1 for one that is lost or gained.
        status_a, status_b: of its row.
        problem: why there is no picture of it; None where there is.
    """

    key: str
    shard: str
    amount: float
    status_a: str
    status_b: str
    boxes_a: int
    boxes_b: int
    problem: str | None


class Difference(_Part):
    """The whole report."""

    schema_version: int = 1
    a: Side
    b: Side
    settings: dict[str, tuple[Any, Any]]
    same_classes: bool
    shards: ShardCounts
    rows: RowCounts
    boxes: BoxCounts
    classes: list[ClassChange]
    largest: list[Change]


class Counts:
    """What is summed up over the shards that both have, of A (0) and of B (1).

    Args:
        class_count: of the classes of both, as which the boxes' classes are numbered.
    """

    def __init__(self, class_count: int) -> None:
        self._rows = [0, 0]
        self._class_boxes = np.zeros((2, class_count), np.int64)
        self._both = self._changed = self._first_class_changed = 0
        self._statuses: Counter[str] = Counter()
        self._matched = self._identical = self._lost = self._gained = 0
        self._overlap = self._score_change = 0.0
        self._histogram = np.zeros(len(_STEPS) - 1, np.int64)
        self._above = np.zeros(len(OVERLAPS), np.int64)

    def add_side(self, side: int, rows: int, boxes: Boxes) -> None:
        """Add all rows of one side's file."""
        self._rows[side] += rows
        class_count = self._class_boxes.shape[1]
        self._class_boxes[side] += np.bincount(boxes.class_id, minlength=class_count)

    def add_rows(
        self,
        before: Sequence[str],
        after: Sequence[str],
        other_boxes: np.ndarray,
        other_class: np.ndarray,
    ) -> None:
        """Add the n rows that both files have.

        Args:
            before, after: their statuses.
            other_boxes, other_class: (n,) bool, whether boxes, or the best predicted class, differ.
        """
        pairs = list(zip(before, after, strict=True))
        self._statuses.update(f"{one} -> {two}" for one, two in pairs if one != two)
        other_status = np.array([one != two for one, two in pairs], bool)
        self._both += len(pairs)
        self._changed += int((other_boxes | other_status).sum())
        self._first_class_changed += int(other_class.sum())

    def add_pairs(self, a: Boxes, b: Boxes, images: int) -> np.ndarray:
        """Add the boxes of the rows that both files have; (images,) how much each row changed."""
        in_a, in_b, overlap = pairs_by_overlap(a, b)
        self._matched += len(overlap)
        self._identical += int((a.corners[in_a] == b.corners[in_b]).all(axis=1).sum())
        self._lost += len(a) - len(overlap)
        self._gained += len(b) - len(overlap)
        self._overlap += float(overlap.sum())
        self._score_change += float((b.score[in_b] - a.score[in_a]).sum())
        self._histogram += np.histogram(overlap, bins=_STEPS)[0]
        self._above += np.array([(overlap >= level).sum() for level in OVERLAPS])

        amount = np.zeros(images)
        for boxes, matched in ((a, in_a), (b, in_b)):
            alone = np.ones(len(boxes), bool)
            alone[matched] = False
            np.add.at(amount, boxes.image[alone], boxes.score[alone])
        larger = np.maximum(a.score[in_a], b.score[in_b])
        np.add.at(amount, a.image[in_a], (1 - overlap) * larger)
        return amount

    def side(self, side: int, folder: str, recipe: str) -> Side:
        """One of the two outputs, its recipe by its digest."""
        boxes = int(self._class_boxes[side].sum())
        return Side(folder=folder, recipe=recipe, rows=self._rows[side], boxes=boxes)

    def row_counts(self) -> RowCounts:
        """The rows."""
        return RowCounts(
            both=self._both,
            only_a=self._rows[0] - self._both,
            only_b=self._rows[1] - self._both,
            changed=self._changed,
            statuses=dict(self._statuses.most_common()),
            first_class_changed=self._first_class_changed,
        )

    def box_counts(self) -> BoxCounts:
        """The boxes."""
        every = self._matched + self._lost + self._gained
        return BoxCounts(
            matched=self._matched,
            identical=self._identical,
            lost=self._lost,
            gained=self._gained,
            mean_overlap=self._overlap / self._matched if self._matched else None,
            overlap_histogram=self._histogram.tolist(),
            share_above={
                str(level): int(above) / every if every else 1.0
                for level, above in zip(OVERLAPS, self._above, strict=True)
            },
            mean_score_change=self._score_change / self._matched if self._matched else None,
        )

    def class_changes(self, names: Sequence[str]) -> list[ClassChange]:
        """The classes whose number of boxes changed, the largest change first."""
        before, after = self._class_boxes
        order = np.argsort(-np.abs(after - before), kind="stable")[:MOST_CLASSES]
        return [
            ClassChange(class_name=names[at], boxes_a=int(before[at]), boxes_b=int(after[at]))
            for at in order.tolist()
            if before[at] != after[at]
        ]


def changed_settings(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The settings, by their full key, that differ; None where one side has none."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return {} if a == b else {prefix: (a, b)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(a.keys() | b.keys()):
        found |= changed_settings(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else key)
    return found
