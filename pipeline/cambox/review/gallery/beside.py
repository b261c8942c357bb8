"""Another output beside the one that is shown: its boxes of the same pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.boxes import Boxes, best_overlaps
from cambox.output.published_file import PublishedFile
from cambox.output.reading import PublishedRecipe
from cambox.output.rows import OBJECT_TYPE, boxes_from_arrow
from cambox.review.diff.compare import common_classes


@dataclass(frozen=True)
class OtherBoxes:
    """What the other output has for a picture.

    Attributes:
        objects: its boxes, by the names of the columns.
        disagreement: 1 less the mean, over the boxes of both, of the IoU with the other output's
            best box of the class; 0 where neither has a box, 1 where only one has.
    """

    objects: Sequence[Mapping[str, Any]]
    disagreement: float


class Beside:
    """The other output; a picture is the same where shard, key and size are."""

    def __init__(self, shown: PublishedRecipe, other: PublishedRecipe) -> None:
        self.uri = other.uri
        _, self._ids, self._other_ids = common_classes(shown, other)
        # A file's name is a function of its shard's URI.
        self._files = {file.name: file for file in other.files}

    def of(self, file: PublishedFile, rows: Sequence[Mapping[str, Any]]) -> dict[str, OtherBoxes]:
        """By key, for those of a file's rows that the other output has, too."""
        if (other := self._files.get(file.name)) is None:
            return {}
        table = other.table(["key", "width", "height", "objects"])
        keys = pa.array([row["key"] for row in rows], pa.string())
        found = table.filter(pc.is_in(table["key"], keys)).to_pylist()
        others = {(row["key"], row["width"], row["height"]): row["objects"] for row in found}
        pairs = {
            row["key"]: (row["objects"], others[same])
            for row in rows
            if (same := (row["key"], row["width"], row["height"])) in others
        }
        mine, theirs = (
            _boxes([pair[side] for pair in pairs.values()], ids)
            for side, ids in enumerate((self._ids, self._other_ids))
        )
        differences = disagreements(mine, theirs, len(pairs)).tolist()
        return {
            key: OtherBoxes(pair[1], difference)
            for (key, pair), difference in zip(pairs.items(), differences, strict=True)
        }


def disagreements(mine: Boxes, theirs: Boxes, images: int) -> np.ndarray:
    """(images,) 1 less the mean of the best IoUs of both sides' boxes, 0 to 1."""
    overlaps = np.concatenate([best_overlaps(mine, theirs), best_overlaps(theirs, mine)])
    image = np.concatenate([mine.image, theirs.image])
    boxes = np.bincount(image, minlength=images)
    missing = np.bincount(image, 1.0 - overlaps, minlength=images)
    return np.asarray(missing / np.maximum(boxes, 1))


def _boxes(objects: Sequence[Sequence[Mapping[str, Any]]], common_ids: np.ndarray) -> Boxes:
    boxes = boxes_from_arrow(pa.array(objects, pa.list_(OBJECT_TYPE)))
    return boxes.with_columns(class_id=common_ids[boxes.class_id])
