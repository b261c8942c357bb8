"""The rows of one file with a detector's boxes; everything else of them stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cambox.boxes import Boxes, place_in_group
from cambox.console import counted
from cambox.output.rows import Entries, as_numpy, boxes_to_arrow, schema

# How near to the image's border, in pixels, a box reaches it.
AT_THE_EDGE = 0.5


@dataclass(frozen=True)
class Rule:
    """Which of a detector's boxes are kept.

    Attributes:
        min_score: of the detector, 0 to 1.
        max_boxes: of each class in an image; None: all.
        any_class: also of classes that are predicted where others are given as labels.
    """

    min_score: float = 0.3
    max_boxes: int | None = None
    any_class: bool = False


@dataclass(frozen=True)
class Detected:
    """What is to be said of rows with a detector's boxes.

    Attributes:
        labels_without_box: given labels of images that were looked at, of which none was found.
        other_classes: boxes that were left out because the row does not name their class.
        unknown_scores: boxes whose class_score the source does not tell; it is 0 there.
    """

    rows: int = 0
    boxes: int = 0
    labels_without_box: int = 0
    other_classes: int = 0
    unknown_scores: int = 0

    def __add__(self, other: Detected) -> Detected:
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return Detected(*(mine + its for mine, its in both))

    def to_json(self) -> dict[str, Any]:
        """The same for machines, in plain types."""
        return dict(vars(self))

    def lines(self, seconds: float) -> list[str]:
        """The same for people."""
        rate = self.rows / seconds if seconds else 0.0
        lines = [f"{counted(self.rows, 'row')}, {counted(self.boxes, 'box')}, {rate:.1f} images/s"]
        if self.labels_without_box:
            lines.append(f"given labels without a box: {self.labels_without_box}")
        if self.other_classes:
            lines.append(
                f"left out: {counted(self.other_classes, 'box')} of classes that are not their "
                "image's"
            )
        return lines


def detected_rows(
    table: pa.Table, found: Boxes, looked_at: np.ndarray, rule: Rule, class_names: tuple[str, ...]
) -> tuple[pa.Table, Detected]:
    """The rows with other boxes, and what there is in them.

    Args:
        table: n rows.
        found: a detector's boxes in pixels of the upright images, ``image`` being their row,
            ``class_id`` that of the recipe.
        looked_at: (n,) bool, the rows whose image the detector saw.
        class_names: of the recipe, by class id.
    """
    labels, classes, objects = (
        Entries.of(table.column(name), name) for name in ("labels", "classes", "objects")
    )
    of_label, of_class = _keys(labels.row, labels["item"]), _keys(classes.row, classes["class_id"])
    found = _inside(found[found.score >= np.float32(rule.min_score)], table)
    wanted = _keys(found.image, found.class_id)
    is_label = np.isin(wanted, of_label)
    rank, predicted = _looked_up(of_class, classes["rank"], wanted)
    labelled = np.bincount(labels.row, minlength=table.num_rows) > 0
    kept = is_label | (predicted & (rule.any_class | ~labelled[found.image]))
    other_classes = int((~kept).sum())

    found = found.with_columns(rank=np.where(is_label, 0, rank).astype(np.int64))[kept]
    found = found[np.lexsort((-found.score, found.class_id, found.rank, found.image))]
    component = place_in_group(found.image, found.rank, found.class_id)
    found = found.with_columns(component=component)
    if rule.max_boxes is not None:
        found = found[found.component < rule.max_boxes]
    # The class's probability is the source's: of a label beyond the model's top-k it is with the
    # boxes that the label had before.
    told = np.concatenate([of_class, _keys(objects.row, objects["class_id"])])
    scores = np.concatenate([classes["probability"], objects["class_score"]])
    wanted = _keys(found.image, found.class_id)
    class_score, known = _looked_up(told, scores, wanted)
    found = found.with_columns(class_score=np.where(known, class_score, 0.0))

    made = table.select(schema(with_maps=False).names)
    place = made.schema.get_field_index("objects")
    made = made.set_column(
        place, "objects", boxes_to_arrow(found, table.num_rows, class_names)
    ).cast(schema(with_maps=False))
    report = Detected(
        rows=table.num_rows,
        boxes=len(found),
        labels_without_box=int((looked_at[labels.row] & ~np.isin(of_label, wanted)).sum()),
        other_classes=other_classes,
        unknown_scores=int((~known).sum()),
    )
    return made, report


def _inside(boxes: Boxes, table: pa.Table) -> Boxes:
    """The boxes cut to their images, as the file has them; those of which nothing is left go."""
    sides = [
        as_numpy(table.column(side).combine_chunks())[boxes.image] for side in ("width", "height")
    ]
    limit = np.stack([*sides, *sides], axis=1).astype(np.float64)
    corners = np.clip(boxes.corners, 0, limit).astype(np.float32).astype(np.float64)
    near = (corners[:, :2] <= AT_THE_EDGE) | (corners[:, 2:] >= limit[:, 2:] - AT_THE_EDGE)
    boxes = boxes.with_columns(corners=corners, touches_edge=near.any(axis=1))
    left: np.ndarray = np.all(boxes.sides > 0, axis=1)
    return boxes[left]


def _keys(row: np.ndarray, class_id: np.ndarray) -> np.ndarray:
    """(n,) int64 one number for row and class."""
    return (row.astype(np.int64) << 32) + class_id.astype(np.int64)


def _looked_up(
    keys: np.ndarray, values: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the first value of each wanted key, and (n,) bool, whether there is one; else 0."""
    if not len(keys):
        return np.zeros(len(wanted)), np.zeros(len(wanted), bool)
    first, places = np.unique(keys, return_index=True)
    at = np.minimum(np.searchsorted(first, wanted), len(first) - 1)
    known = first[at] == wanted
    return np.where(known, values[places[at]], 0), known
