"""The rows of one file with new boxes; everything else of them stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from cambox.cams.boxes import find_boxes_by_shape
from cambox.cams.geometry import MapGeometry
from cambox.cams.score import MapClasses, choose_boxes
from cambox.config_cam import BoxSettings
from cambox.console import counted
from cambox.output.rows import Entries, StoredMap, as_numpy, boxes_to_arrow, schema


@dataclass(frozen=True)
class Reboxed:
    """What is to be said of rows that were reboxed.

    Attributes:
        no_box: maps without a box, by reason.
        unknown_scores: boxes whose class_score the source does not tell; it is 0 there.
    """

    rows: int = 0
    boxes: int = 0
    no_box: Counter[str] = field(default_factory=Counter)
    unknown_scores: int = 0

    def __add__(self, other: Reboxed) -> Reboxed:
        return Reboxed(
            self.rows + other.rows,
            self.boxes + other.boxes,
            self.no_box + other.no_box,
            self.unknown_scores + other.unknown_scores,
        )

    def to_json(self) -> dict[str, Any]:
        """The same for machines, in plain types."""
        return {
            "rows": self.rows,
            "boxes": self.boxes,
            "maps_without_box": dict(self.no_box),
            "boxes_with_unknown_class_score": self.unknown_scores,
        }

    def lines(self, seconds: float) -> list[str]:
        """The same for people."""
        rate = self.rows / seconds if seconds else 0.0
        lines = [f"{counted(self.rows, 'row')}, {counted(self.boxes, 'box')}, {rate:.1f} images/s"]
        if self.no_box:
            reasons = ", ".join(f"{name} {count}" for name, count in sorted(self.no_box.items()))
            lines.append(f"maps without a box: {reasons}")
        if self.unknown_scores:
            lines.append(
                f"{self.unknown_scores} boxes are of labels beyond the model's top-k that had no "
                "box before; the source does not tell their class_score, so it is 0"
            )
        return lines


def rebox_rows(
    table: pa.Table, settings: BoxSettings, geometry: MapGeometry, class_names: Sequence[str]
) -> tuple[pa.Table, Reboxed]:
    """Make the boxes of every stored map anew; the rows, and what there is in them.

    Args:
        table: rows with ``maps``.
        geometry: of the network that made the maps.
    """
    maps = Entries.of(table.column("maps"), "maps")
    scores, known = _class_scores(table, maps)
    classes = MapClasses(maps.row, maps["class_id"], maps["rank"], scores)
    names = ("class_id", "rank", "height", "width", "low", "high", "values")
    columns = [maps.fields[name].to_pylist() for name in names]
    stored = (StoredMap(*values).restore() for values in zip(*columns, strict=True))
    found = choose_boxes(find_boxes_by_shape(stored, geometry, settings), classes, settings)
    # As float64, as the annotating run computes them, and rounded once.
    width, height = (
        as_numpy(table.column(side).combine_chunks()).astype(np.float64)[found.boxes.image]
        for side in ("width", "height")
    )
    objects = boxes_to_arrow(found.boxes.scaled(width, height), table.num_rows, class_names)
    made = table.set_column(table.schema.get_field_index("objects"), "objects", objects)
    no_box = Counter(str(reason) for reason in found.reasons if reason is not None)
    unknown = int((~known[found.of_map]).sum())
    report = Reboxed(table.num_rows, len(found.boxes), no_box, unknown)
    with_features = "features" in made.schema.names
    return made.cast(schema(with_maps=True, with_features=with_features)), report


def _class_scores(table: pa.Table, maps: Entries) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the class's probability of each map, and whether the source tells it.

    It is among the predicted classes, or, for a label that is not, with the boxes that the label
    had before. A label beyond the model's top-k whose map had no box is the one case without.
    """
    classes = Entries.of(table.column("classes"), "classes")
    objects = Entries.of(table.column("objects"), "objects")
    told = dict(zip(_keys(objects), objects["class_score"], strict=True))
    told |= zip(_keys(classes), classes["probability"], strict=True)
    wanted = _keys(maps)
    scores = np.array([told.get(key, 0) for key in wanted], np.float32)
    return scores, np.array([key in told for key in wanted], bool)


def _keys(entries: Entries) -> list[tuple[int, int]]:
    """Row and class of each."""
    return list(zip(entries.row.tolist(), entries["class_id"].tolist(), strict=True))
