"""The rows of one file with new boxes; everything else of them stays."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cambox.boxes import Boxes
from cambox.cams.boxes import FoundBoxes, NoBoxReason, find_boxes
from cambox.cams.score import MapClasses, choose_boxes
from cambox.config import BoxSettings
from cambox.output.rows import Entries, StoredMap, as_numpy, boxes_to_arrow, schema

# Room for the most boxes of each is taken at once, and boxes.max_boxes may be large.
MAPS_AT_ONCE = 64


@dataclass(frozen=True)
class ReboxedRows:
    """The rows of a file, and what is to be said of them.

    Attributes:
        boxes: how many there are.
        no_box: maps without a box, by reason.
        unknown_scores: boxes whose class_score the source does not tell; it is 0 there.
    """

    table: pa.Table
    boxes: int
    no_box: Counter[str]
    unknown_scores: int


def rebox_rows(
    table: pa.Table, settings: BoxSettings, size: tuple[int, int], class_names: Sequence[str]
) -> ReboxedRows:
    """Make the boxes of every stored map anew.

    Args:
        table: rows with ``maps``.
        size: (height, width) that maps are upsampled to.
    """
    maps = Entries.of(table.column("maps"), "maps")
    scores, known = _class_scores(table, maps)
    classes = MapClasses(maps.row, maps["class_id"], maps["rank"], scores)
    found = choose_boxes(_boxes(maps, settings, size), classes, settings)
    # As float64, as the annotating run computes them, and rounded once.
    width, height = (
        as_numpy(table.column(side).combine_chunks()).astype(np.float64)[found.boxes.image]
        for side in ("width", "height")
    )
    objects = boxes_to_arrow(found.boxes.scaled(width, height), table.num_rows, class_names)
    made = table.set_column(table.schema.get_field_index("objects"), "objects", objects)
    return ReboxedRows(
        table=made.cast(schema(with_maps=True)),
        boxes=len(found.boxes),
        no_box=Counter(str(reason) for reason in found.reasons if reason is not None),
        unknown_scores=int((~known[found.of_map]).sum()),
    )


def _boxes(maps: Entries, settings: BoxSettings, size: tuple[int, int]) -> FoundBoxes:
    names = ("class_id", "rank", "height", "width", "low", "high", "values")
    columns = [maps.fields[name].to_pylist() for name in names]
    stored = (StoredMap(*values).restore() for values in zip(*columns, strict=True))
    parts: list[FoundBoxes] = []
    first = 0
    of_map: list[np.ndarray] = [np.zeros(0, np.int64)]
    reasons: list[NoBoxReason | None] = []
    # One file's maps are of one shape, unless it is from elsewhere.
    for _, of_shape in itertools.groupby(stored, key=lambda one: one.shape):
        while part := list(itertools.islice(of_shape, MAPS_AT_ONCE)):
            parts.append(find_boxes(np.stack(part), size, settings))
            of_map.append(parts[-1].of_map + first)
            reasons += parts[-1].reasons
            first += len(part)
    boxes = Boxes.joined(part.boxes for part in parts)
    return FoundBoxes(boxes, np.concatenate(of_map), tuple(reasons))


def _class_scores(table: pa.Table, maps: Entries) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the class's probability of each map, and whether the source tells it.

    It is among the predicted classes, or, for a label that is not, with the boxes that the label
    had before. A label beyond the model's top-k whose map had no box is the one case without.
    """
    classes = Entries.of(table.column("classes"), "classes")
    objects = Entries.of(table.column("objects"), "objects")
    keys = np.concatenate([_key(classes), _key(objects)])
    values = np.concatenate([classes["probability"], objects["class_score"]])
    wanted = _key(maps)
    if not len(keys):
        return np.zeros(len(wanted), np.float32), np.zeros(len(wanted), bool)
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    known = keys[order][at] == wanted
    return np.where(known, values[order][at], 0).astype(np.float32), known


def _key(entries: Entries) -> np.ndarray:
    """(n,) one number for row and class."""
    key: np.ndarray = (entries.row.astype(np.int64) << 32) + entries["class_id"]
    return key
