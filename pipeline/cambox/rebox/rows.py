"""The rows of one file with new boxes; everything else of them stays."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from cambox.boxing import Boxing
from cambox.cams import MapBoxes, WantedClass
from cambox.output.entries import Entries, as_numpy
from cambox.output.rows import OBJECT_TYPE, StoredMap, schema

# Room for the most boxes of each is taken at once, and boxes.max_boxes may be large.
MAPS_AT_ONCE = 64


@dataclass(frozen=True)
class ReboxedRows:
    """The rows of a file, and what is to be said of them.

    Attributes:
        objects: boxes.
        no_box: maps without a box, by reason.
        unknown_scores: boxes whose class_score the source does not tell; it is 0 there.
    """

    table: pa.Table
    objects: int
    no_box: Counter[str]
    unknown_scores: int


def rebox_rows(table: pa.Table, boxing: Boxing, class_names: Sequence[str]) -> ReboxedRows:
    """Make the boxes of every stored map anew.

    Args:
        table: rows with ``maps``.
    """
    table = table.combine_chunks()
    maps, _, _ = Entries.of(_column(table, "maps"), "maps")
    scores, known = _class_scores(table, maps)
    found = _of_images(_boxes(maps, boxing), maps, scores, boxing)
    counts = np.array([len(one.boxes) for one in found], np.int64)
    of_map = np.repeat(np.arange(len(found)), counts)
    objects = _objects(table, maps, found, of_map, scores, class_names)
    column = pa.ListArray.from_arrays(
        pa.array(_offsets(maps.row[of_map], table.num_rows)), objects, type=pa.list_(OBJECT_TYPE)
    )
    made = table.set_column(table.schema.get_field_index("objects"), "objects", column)
    return ReboxedRows(
        table=made.cast(schema(with_maps=True)),
        objects=len(objects),
        no_box=Counter(str(one.reason) for one in found if one.reason is not None),
        unknown_scores=int((~known[of_map]).sum()),
    )


def _column(table: pa.Table, name: str) -> pa.ListArray:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _boxes(maps: Entries, boxing: Boxing) -> list[MapBoxes]:
    names = ("class_id", "rank", "height", "width", "low", "high", "values")
    columns = [maps.fields[name].to_pylist() for name in names]
    stored = (StoredMap(*values).restore() for values in zip(*columns, strict=True))
    found: list[MapBoxes] = []
    # One file's maps are of one shape, unless it is from elsewhere.
    for _, of_shape in itertools.groupby(stored, key=lambda one: one.shape):
        while part := list(itertools.islice(of_shape, MAPS_AT_ONCE)):
            found += boxing.boxes(torch.from_numpy(np.stack(part)))
    return found


def _of_images(
    found: Sequence[MapBoxes], maps: Entries, scores: np.ndarray, boxing: Boxing
) -> list[MapBoxes]:
    """The boxes of all maps, scored and, image by image, freed of what the settings drop."""
    classes = zip(maps["class_id"].tolist(), maps["rank"].tolist(), strict=True)
    wanted = [WantedClass(class_id, rank) for class_id, rank in classes]
    result: list[MapBoxes] = []
    starts = np.flatnonzero(np.diff(maps.row, prepend=-1))
    for part in map(slice, starts.tolist(), [*starts[1:].tolist(), len(found)]):
        result += boxing.of_image(wanted[part], scores[part].tolist(), found[part])
    return result


def _class_scores(table: pa.Table, maps: Entries) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the class's probability of each map, and whether the source tells it.

    It is among the predicted classes, or, for a label that is not, with the boxes that the label
    had before. A label beyond the model's top-k whose map had no box is the one case without.
    """
    classes, _, _ = Entries.of(_column(table, "classes"), "classes")
    objects, _, _ = Entries.of(_column(table, "objects"), "objects")
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


def _objects(
    table: pa.Table,
    maps: Entries,
    found: Sequence[MapBoxes],
    of_map: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
) -> pa.StructArray:
    """The boxes in pixels, in the order of their maps."""
    boxes = [box for one in found for box in one.boxes]
    row = maps.row[of_map]
    # As float64, as the annotating run computes them, and rounded once.
    width = as_numpy(table.column("width").combine_chunks()).astype(np.float64)[row]
    height = as_numpy(table.column("height").combine_chunks()).astype(np.float64)[row]
    class_id = maps["class_id"][of_map]
    values = {
        "class_id": class_id,
        "class_name": pa.array(class_names, pa.string()).take(pa.array(class_id)),
        "rank": maps["rank"][of_map],
        "class_score": scores[of_map],
        "box_score": [box.score for box in boxes],
        "x_min": np.array([box.x_min for box in boxes]) * width,
        "y_min": np.array([box.y_min for box in boxes]) * height,
        "x_max": np.array([box.x_max for box in boxes]) * width,
        "y_max": np.array([box.y_max for box in boxes]) * height,
        "component": [box.component for box in boxes],
        "touches_edge": [box.touches_edge for box in boxes],
    }
    fields = list(OBJECT_TYPE)
    arrays = [_array(values[field.name], field.type) for field in fields]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _array(values: object, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, np.ndarray):
        return pa.array(values.astype(kind.to_pandas_dtype()), kind)
    return pa.array(values, kind)


def _offsets(row: np.ndarray, rows: int) -> np.ndarray:
    """(rows + 1,) where the entries of each row begin, for ascending rows."""
    counts = np.bincount(row, minlength=rows)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
