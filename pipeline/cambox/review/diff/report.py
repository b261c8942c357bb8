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

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    changed: int = 0
    statuses: dict[str, int]
    first_class_changed: int = 0


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

    matched: int = 0
    identical: int = 0
    lost: int = 0
    gained: int = 0
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


class Sums:
    """What is summed up over the shards that both have.

    Attributes:
        rows, boxes: by the names of ``RowCounts`` and ``BoxCounts``.
        class_boxes: (2, K) boxes of all rows of A and of B, by class.
    """

    def __init__(self, class_count: int) -> None:
        self.rows: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.boxes: Counter[str] = Counter()
        self.class_boxes = np.zeros((2, class_count), np.int64)
        self._overlap = self._score_change = 0.0
        self._histogram = np.zeros(len(_STEPS) - 1, np.int64)
        self._above = np.zeros(len(OVERLAPS), np.int64)

    def add_pairs(self, a: Boxes, b: Boxes, images: int) -> np.ndarray:
        """Add the boxes of the rows that both files have; (images,) how much each row changed."""
        in_a, in_b, overlap = pairs_by_overlap(a, b)
        self.boxes.update(
            matched=len(overlap),
            identical=int((a.corners[in_a] == b.corners[in_b]).all(axis=1).sum()),
            lost=len(a) - len(overlap),
            gained=len(b) - len(overlap),
        )
        self._overlap += float(overlap.sum())
        self._score_change += float((b.score[in_b] - a.score[in_a]).sum())
        self._histogram += np.histogram(overlap, bins=_STEPS)[0]
        self._above += (overlap[:, None] >= OVERLAPS).sum(axis=0)

        amount = np.zeros(images)
        for boxes, matched in ((a, in_a), (b, in_b)):
            alone = np.delete(np.arange(len(boxes)), matched)
            np.add.at(amount, boxes.image[alone], boxes.score[alone])
        larger = np.maximum(a.score[in_a], b.score[in_b])
        np.add.at(amount, a.image[in_a], (1 - overlap) * larger)
        return amount

    def box_counts(self) -> BoxCounts:
        """The boxes."""
        matched = self.boxes["matched"]
        every = matched + self.boxes["lost"] + self.boxes["gained"]
        above = self._above / every if every else np.ones(len(OVERLAPS))
        return BoxCounts(
            **self.boxes,
            mean_overlap=self._overlap / matched if matched else None,
            overlap_histogram=self._histogram.tolist(),
            share_above=dict(zip(map(str, OVERLAPS), above.tolist(), strict=True)),
            mean_score_change=self._score_change / matched if matched else None,
        )

    def class_changes(self, names: Sequence[str]) -> list[ClassChange]:
        """The classes whose number of boxes changed, the largest change first."""
        before, after = self.class_boxes
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
