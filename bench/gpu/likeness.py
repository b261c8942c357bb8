"""How far the classes, maps and boxes of two outputs over the same images differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cambox.boxes import Boxes, iou, pairs_by_overlap
from cambox.output.rows import StoredMap, boxes_from_arrow

MATCHED = 0.5


def read_rows(folder: Path) -> pa.Table:
    """All rows of an output, whatever recipe they are of, with ``id`` that names the sample."""
    files = sorted(path for path in folder.rglob("*.parquet") if "latest" not in path.parts)
    rows = pa.concat_tables([pq.read_table(path) for path in files])
    names = [
        f"{Path(shard).name}:{index}:{key}"
        for shard, index, key in zip(
            *(rows[name].to_pylist() for name in ("shard", "sample_index", "key")), strict=True
        )
    ]
    return rows.append_column("id", pa.array(names)).drop_columns(["shard"])


def likeness(one: pa.Table, other: pa.Table, most: int = 600) -> dict[str, Any]:
    """Compare the rows of the samples that both have.

    Args:
        most: samples whose maps and boxes are looked at, evenly taken; that rows are identical is
            asked of all.
    """
    common = sorted(set(one["id"].to_pylist()) & set(other["id"].to_pylist()))
    first, second = (_taken(rows, common) for rows in (one, other))
    identical = sum(
        a == b for a, b in zip(*(_without_maps(rows) for rows in (first, second)), strict=True)
    )
    step = -(-len(common) // most) or 1
    first, second = (rows.take(list(range(0, len(common), step))) for rows in (first, second))
    found: dict[str, Any] = {
        "rows": [len(one), len(other), len(common)],
        "rows identical but for maps": identical,
        "images looked at": len(first),
    }
    return found | _classes(first, second) | _maps_and_boxes(first, second)


def _taken(rows: pa.Table, names: list[str]) -> pa.Table:
    places = {name: place for place, name in enumerate(rows["id"].to_pylist())}
    return rows.take([places[name] for name in names])


def _without_maps(rows: pa.Table) -> list[dict[str, Any]]:
    plain = rows.drop_columns(["maps"]) if "maps" in rows.column_names else rows
    return list(plain.to_pylist())


def _classes(one: pa.Table, other: pa.Table) -> dict[str, Any]:
    same = shared = 0
    moved = 0.0
    for rows in zip(*(rows["classes"].to_pylist() for rows in (one, other)), strict=True):
        a, b = ({entry["class_id"]: entry["probability"] for entry in row} for row in rows)
        same += next(iter(a), None) == next(iter(b), None)
        both = a.keys() & b.keys()
        shared += len(both)
        moved = max([moved, *(abs(a[class_id] - b[class_id]) for class_id in both)])
    return {
        "first class the same": same / max(1, len(one)),
        "classes of the five in common": shared / max(1, len(one)),
        "largest change of a probability": moved,
    }


def _maps_and_boxes(one: pa.Table, other: pa.Table) -> dict[str, Any]:
    """Of classes that both have a map of."""
    maps, others = _maps(one), _maps(other)
    common = maps.keys() & others.keys()
    distances, correlations = [], []
    for key in common:
        a, b = maps[key], others[key]
        if a.shape == b.shape and np.ptp(b) > 0:
            distances.append(np.abs(a - b).mean() / np.ptp(b))
            correlations.append(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    boxes, other_boxes = (_of_classes(rows, common) for rows in (one, other))
    _, _, overlaps = pairs_by_overlap(boxes, other_boxes)
    matched = overlaps[overlaps >= MATCHED]
    return {
        "maps": len(distances),
        "map distance, mean over spread: median, 99 %": _middle(distances, 99),
        "map correlation: median, 1 %": _middle(correlations, 1),
        "boxes of common classes": [len(boxes), len(other_boxes)],
        f"boxes matched at {MATCHED}": len(matched),
        "their IoU: median, 1 %": _middle(matched, 1),
        "IoU above 0.99": float((matched > 0.99).sum() / max(1, len(matched))),
        "IoU above 0.9": float((matched > 0.9).sum() / max(1, len(matched))),
        "IoU of the label's largest box: median, 5 %": _middle(
            _of_labels(one, boxes, other_boxes), 5
        ),
    }


def _maps(rows: pa.Table) -> dict[tuple[int, int], np.ndarray]:
    """By row and class."""
    lists = rows["maps"].to_pylist() if "maps" in rows.column_names else [()] * len(rows)
    return {
        (row, entry["class_id"]): StoredMap(**entry).restore()
        for row, entries in enumerate(lists)
        for entry in entries
    }


def _of_classes(rows: pa.Table, common: set[tuple[int, int]]) -> Boxes:
    boxes = boxes_from_arrow(rows["objects"])
    keys = zip(boxes.image.tolist(), boxes.class_id.tolist(), strict=True)
    return boxes[np.array([key in common for key in keys], bool)]


def _of_labels(rows: pa.Table, one: Boxes, other: Boxes) -> list[float]:
    """The IoU of the largest boxes of each class that the sample was given."""
    largest: list[dict[tuple[int, int], np.ndarray]] = []
    for boxes in (one, other):
        first = boxes[boxes.component == 0]
        keys = zip(first.image.tolist(), first.class_id.tolist(), strict=True)
        largest.append(dict(zip(keys, first.corners, strict=True)))
    given = enumerate(rows["labels"].to_pylist())
    labelled = {(row, label) for row, labels in given for label in labels or ()}
    both = labelled & largest[0].keys() & largest[1].keys()
    return [float(iou(largest[0][key], largest[1][key])) for key in both]


def _middle(values: Any, end: float) -> list[float] | None:
    if not len(values):
        return None
    return [round(float(value), 5) for value in np.percentile(values, (50, end))]
