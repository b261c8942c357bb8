"""Published rows as labelled images: the boxes that a selection leaves, with numbered classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cambox.output.entries import Entries, as_numpy
from cambox.training.selection import ClassList, Selection

COLUMNS = ("key", "status", "width", "height", "objects")
NO_BOX = "no box"
_SIDES = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True)
class LabelledImage:
    """An image and its n boxes.

    Attributes:
        image_id: the number of its row in the recipe's folder, from 0, files sorted by name.
        width, height: of the upright image.
        classes: (n,) int64, places in the ``ClassList``.
        scores: (n,) float32, ``box_score``.
        corners: (n, 4) float32, x_min, y_min, x_max, y_max in pixels, half-open.
    """

    image_id: int
    key: str
    shard: str
    width: int
    height: int
    classes: np.ndarray
    scores: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True)
class LabelledImages:
    """The m images that a selection takes of some rows of a shard, with their n boxes side by side.

    Arrays and not objects, so that processes that only read them share their memory.

    Attributes:
        image_ids, widths, heights: (m,) int64.
        keys: (m,) strings.
        starts: (m + 1,) int64; the boxes of image i are those from starts[i] to starts[i + 1].
        classes, scores, corners: (n,), (n,), (n, 4), as in ``LabelledImage``.
        left_out: how many images were not taken, by their status; those that lack only a box
            under ``NO_BOX``.
    """

    shard: str
    image_ids: np.ndarray
    keys: pa.Array
    widths: np.ndarray
    heights: np.ndarray
    starts: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    corners: np.ndarray
    left_out: Counter[str]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> LabelledImage:
        own = slice(self.starts[index], self.starts[index + 1])
        return LabelledImage(
            int(self.image_ids[index]),
            self.keys[index].as_py(),
            self.shard,
            int(self.widths[index]),
            int(self.heights[index]),
            self.classes[own],
            self.scores[own],
            self.corners[own],
        )

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[index] for index in range(len(self)))


def labelled_images(
    batch: pa.RecordBatch, shard: str, first_id: int, selection: Selection, classes: ClassList
) -> LabelledImages:
    """What a selection takes of some rows.

    Args:
        batch: rows with ``COLUMNS``.
        shard: the URI of the shard that they are of.
        first_id: the ``image_id`` of the first row.
    """
    objects, _, _ = Entries.of(batch["objects"], "objects")
    place = classes.places()[objects["class_id"]]
    taken = (place >= 0) & (objects["box_score"] >= np.float32(selection.min_score))
    if selection.only_labels:
        taken &= objects["rank"] == 0
    if selection.max_rank is not None:
        taken &= objects["rank"] <= selection.max_rank
    if selection.max_component is not None:
        taken &= objects["component"] <= selection.max_component

    statuses = np.array(batch["status"].to_pylist(), dtype=object)
    sized = as_numpy(batch["width"].is_valid()) & as_numpy(batch["height"].is_valid())
    wanted = sized & np.isin(statuses, selection.statuses)
    boxes_of_row = np.bincount(objects.row[taken], minlength=batch.num_rows)
    kept = wanted if selection.keep_empty else wanted & (boxes_of_row > 0)
    left_out = Counter(statuses[~wanted].tolist())
    if no_box := int(np.count_nonzero(wanted & ~kept)):
        left_out[NO_BOX] = no_box

    taken &= kept[objects.row]
    rows = np.flatnonzero(kept)
    kept_rows = batch.select(["key", "width", "height"]).take(pa.array(rows))
    return LabelledImages(
        shard=shard,
        image_ids=first_id + rows,
        keys=kept_rows["key"],
        widths=as_numpy(kept_rows["width"]).astype(np.int64),
        heights=as_numpy(kept_rows["height"]).astype(np.int64),
        starts=np.concatenate([[0], np.cumsum(boxes_of_row[rows])]).astype(np.int64),
        classes=place[taken],
        scores=objects["box_score"][taken],
        corners=np.stack([objects[side][taken] for side in _SIDES], axis=1),
        left_out=left_out,
    )
