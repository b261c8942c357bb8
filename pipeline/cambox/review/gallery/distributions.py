"""How boxes, areas, scores and classes are spread over all rows, in memory that does not grow."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.output.rows import SIDES, as_numpy, boxes_from_arrow

SHARE_BINS = 20
SIZES = ("below 1 %", "1 to 5 %", "5 to 15 %", "15 to 50 %", "above 50 %")
"""Of boxes, as shares of the image; the borders of ``cambox evaluate``."""
SIZE_BORDERS = (0.01, 0.05, 0.15, 0.5)
NUMBERS = ("the only one", "one of 2", "one of 3", "one of 4 or more")
"""Boxes of a class in an image."""
MOST_BOXES = 20
"""Images with more boxes are counted together with those of so many."""
_MOST_REASONS = 1000
COLUMNS = (
    *("status", "error", "width", "height"),
    *(
        f"objects.list.element.{name}"
        for name in ("class_id", "class_score", "box_score", "touches_edge", *SIDES)
    ),
)
"""What to read of each file."""


@dataclass
class Reason:
    """Why rows have no annotation; ``example`` is the first error of the kind."""

    status: str
    example: str
    rows: int = 0


class Distributions:
    """Counts over all rows that were added.

    Attributes:
        statuses: rows by status.
        boxes_per_image: (MOST_BOXES + 1,) images that were annotated, by the number of boxes.
        areas, box_scores, class_scores: (SHARE_BINS,) boxes by share of the image's area, by
            box_score and by class_score, in equal steps from 0 to 1.
        class_boxes: (K,) boxes by class.
        at_edge: boxes that touch the image's border.
        by_size, by_number: (5, 2) and (4, 2) for each of ``SIZES`` and ``NUMBERS``, how many boxes
            and the sum of their box_score.
    """

    def __init__(self, class_count: int) -> None:
        self.statuses: Counter[str] = Counter()
        self.boxes_per_image = np.zeros(MOST_BOXES + 1, np.int64)
        self.areas = np.zeros(SHARE_BINS, np.int64)
        self.box_scores = np.zeros(SHARE_BINS, np.int64)
        self.class_scores = np.zeros(SHARE_BINS, np.int64)
        self.class_boxes = np.zeros(class_count, np.int64)
        self.at_edge = 0
        self.by_size = np.zeros((len(SIZES), 2))
        self.by_number = np.zeros((len(NUMBERS), 2))
        self._reasons: dict[tuple[str, str], Reason] = {}

    @property
    def rows(self) -> int:
        """All rows."""
        return self.statuses.total()

    @property
    def boxes(self) -> int:
        """All boxes."""
        return int(self.class_boxes.sum())

    @property
    def reasons(self) -> list[Reason]:
        """What failed and why, the most frequent first."""
        return sorted(self._reasons.values(), key=lambda reason: -reason.rows)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch, which has ``COLUMNS``."""
        self.statuses.update(batch["status"].to_pylist())
        annotated = as_numpy(pc.equal(batch["status"], "ok"))
        failed = batch.filter(pa.array(~annotated)).select(["status", "error"])
        for row in failed.to_pylist():
            self._add_failure(row["status"], row["error"] or "no reason given")
        boxes = boxes_from_arrow(batch["objects"])
        per_image = np.bincount(boxes.image, minlength=batch.num_rows)[annotated]
        self.boxes_per_image += np.bincount(
            np.minimum(per_image, MOST_BOXES), minlength=MOST_BOXES + 1
        )
        frame = as_numpy(batch["width"]).astype(float) * as_numpy(batch["height"]).astype(float)
        area = boxes.area / frame[boxes.image]
        self.areas += share_counts(area)
        self.by_size += _counts_and_sums(np.digitize(area, SIZE_BORDERS), boxes.score, len(SIZES))
        pairs = np.stack([boxes.image, boxes.class_id], axis=1)
        _, pair, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
        number = np.minimum(counts[pair.reshape(-1)], len(NUMBERS)) - 1
        self.by_number += _counts_and_sums(number, boxes.score, len(NUMBERS))
        self.box_scores += share_counts(boxes.score)
        self.class_scores += share_counts(boxes.class_score)
        self.class_boxes += np.bincount(boxes.class_id, minlength=len(self.class_boxes))
        self.at_edge += int(boxes.touches_edge.sum())

    def _add_failure(self, status: str, error: str) -> None:
        # Errors have sizes and places in them; without those they are few.
        key = (status, re.sub(r"\d+", "#", error))
        if key not in self._reasons and len(self._reasons) >= _MOST_REASONS:
            key = (status, "other reasons")
        self._reasons.setdefault(key, Reason(status, error)).rows += 1


def _counts_and_sums(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """(groups, 2) of values (n,) in groups (n,): how many, and their sum."""
    counts = np.bincount(group, minlength=groups)
    return np.stack([counts, np.bincount(group, values, minlength=groups)], axis=1)


def share_counts(values: np.ndarray) -> np.ndarray:
    """(SHARE_BINS,) values of 0 to 1 by equal steps; 1 belongs to the last."""
    steps = np.clip(values * SHARE_BINS, 0, SHARE_BINS - 1).astype(np.int64)
    return np.bincount(steps, minlength=SHARE_BINS)
