"""Rows and boxes counted by status, class and size, in memory that does not grow with them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.output.reviewed import REVIEWED
from cambox.output.rows import SIDES, as_numpy, boxes_from_arrow
from cambox.review.gallery.distributions import SIZE_BORDERS, SIZES

PIXEL_SIZES = ("small", "medium", "large")
"""As COCO tells them, by the area of a box: below 32 x 32 pixels, below 96 x 96, and above."""
_PIXEL_BORDERS = (32**2, 96**2)
COLUMNS = (
    *("status", "width", "height", REVIEWED),
    *(f"objects.list.element.{name}" for name in ("class_id", *SIDES)),
)
"""What to read of each file."""


class Counts:
    """What was added.

    Attributes:
        statuses: rows by status.
        without_boxes: rows of status ``ok`` that have no box.
        reviewed: rows that people have settled.
        class_images: (K,) images that have boxes of a class.
        by_share: (K, 5) boxes by class and share of the image's area, see ``SIZES``.
        by_pixels: (K, 3) boxes by class and ``PIXEL_SIZES``.
    """

    def __init__(self, class_count: int) -> None:
        self.statuses: Counter[str] = Counter()
        self.without_boxes = 0
        self.reviewed = 0
        self.class_images = np.zeros(class_count, np.int64)
        self.by_share = np.zeros((class_count, len(SIZES)), np.int64)
        self.by_pixels = np.zeros((class_count, len(PIXEL_SIZES)), np.int64)

    @property
    def rows(self) -> int:
        """All rows."""
        return self.statuses.total()

    @property
    def class_boxes(self) -> np.ndarray:
        """(K,) boxes by class."""
        boxes: np.ndarray = self.by_pixels.sum(axis=1)
        return boxes

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch, which has ``COLUMNS``."""
        self.statuses.update(batch["status"].to_pylist())
        self.reviewed += pc.sum(batch[REVIEWED]).as_py() or 0
        boxes = boxes_from_arrow(batch["objects"])
        per_image = np.bincount(boxes.image, minlength=batch.num_rows)
        annotated = as_numpy(pc.equal(batch["status"], "ok"))
        self.without_boxes += int((annotated & (per_image == 0)).sum())
        pixels = as_numpy(batch["width"]).astype(float) * as_numpy(batch["height"]).astype(float)
        share = boxes.area / pixels[boxes.image]
        np.add.at(self.by_share, (boxes.class_id, np.digitize(share, SIZE_BORDERS)), 1)
        np.add.at(self.by_pixels, (boxes.class_id, np.digitize(boxes.area, _PIXEL_BORDERS)), 1)
        pairs = np.unique(np.stack([boxes.image, boxes.class_id], axis=1), axis=0)
        self.class_images += np.bincount(pairs[:, 1], minlength=len(self.class_images))
