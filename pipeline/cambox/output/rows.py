"""One row per sample, and its Arrow schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

CLASS_TYPE = pa.struct(
    [("class_id", pa.int32()), ("rank", pa.int32()), ("probability", pa.float32())]
)
OBJECT_TYPE = pa.struct(
    [
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("rank", pa.int32()),
        ("class_score", pa.float32()),
        ("box_score", pa.float32()),
        ("x_min", pa.float32()),
        ("y_min", pa.float32()),
        ("x_max", pa.float32()),
        ("y_max", pa.float32()),
        ("component", pa.int32()),
        ("touches_edge", pa.bool_()),
    ]
)
MAP_TYPE = pa.struct(
    [
        ("class_id", pa.int32()),
        ("rank", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("low", pa.float32()),
        ("high", pa.float32()),
        ("values", pa.binary()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("labels", pa.list_(pa.int32())),
        pa.field("classes", pa.list_(CLASS_TYPE), nullable=False),
        pa.field("objects", pa.list_(OBJECT_TYPE), nullable=False),
    ]
)
MAPS_FIELD = pa.field("maps", pa.list_(MAP_TYPE), nullable=False)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A class of the model's top-k; rank from 1, probability 0..1."""

    class_id: int
    rank: int
    probability: float


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """A pseudo box in pixels of the upright original image, half-open.

    Attributes:
        rank: of the class among the predicted ones, from 1; 0 for a given label.
        class_score: the class's probability, 0..1.
        box_score: the probability that the box is right where the recipe has a calibration, else
            the mean of the normalised map inside the box; 0..1.
        component: 0 for the largest component of the class's map, then 1, 2, ...
        touches_edge: whether the box reaches the image's border.
    """

    class_id: int
    class_name: str
    rank: int
    class_score: float
    box_score: float
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    component: int
    touches_edge: bool


@dataclass(frozen=True, slots=True)
class StoredMap:
    """A score map at the feature map's size, 8 bits a cell.

    value = low + v / 255 * (high - low) for the bytes v of ``values``, row by row.
    """

    class_id: int
    rank: int
    height: int
    width: int
    low: float
    high: float
    values: bytes

    @classmethod
    def of(cls, class_id: int, rank: int, score_map: np.ndarray) -> StoredMap:
        """Quantise a map (h, w) of finite values; one with others is stored as all zero."""
        values = score_map.astype(np.float64)
        if not np.isfinite(values).all():
            values = np.zeros_like(values)
        low, high = float(values.min()), float(values.max())
        scale = 255 / (high - low) if high > low else 0.0
        steps = np.rint((values - low) * scale).astype(np.uint8)
        height, width = steps.shape
        return cls(class_id, rank, height, width, low, high, steps.tobytes())

    def restore(self) -> np.ndarray:
        """The map (h, w) float32, exact to half a step of (high - low) / 255."""
        steps = np.frombuffer(self.values, np.uint8).reshape(self.height, self.width)
        return (self.low + steps.astype(np.float32) / 255 * (self.high - self.low)).astype(
            np.float32
        )


@dataclass(frozen=True, slots=True)
class Row:
    """The annotation of one sample, with empty lists where nothing was found."""

    key: str
    shard: str
    sample_index: int
    status: str
    error: str | None
    width: int | None
    height: int | None
    labels: tuple[int, ...] | None
    classes: tuple[ClassScore, ...] = ()
    objects: tuple[AnnotatedObject, ...] = ()
    maps: tuple[StoredMap, ...] = ()


def schema(with_maps: bool) -> pa.Schema:
    """The file's columns; ``maps`` only where maps are stored."""
    return SCHEMA.append(MAPS_FIELD) if with_maps else SCHEMA


def table(rows: Sequence[Row], with_maps: bool) -> pa.Table:
    """The rows as one Arrow table."""
    fields = schema(with_maps)
    columns = [
        _lists([getattr(row, field.name) for row in rows], field.type)
        if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type)
        else pa.array([getattr(row, field.name) for row in rows], field.type)
        for field in fields
    ]
    return pa.Table.from_arrays(columns, schema=fields)


def _lists(lists: Sequence[Sequence[Any]], type_: pa.ListType) -> pa.ListArray:
    """Lists of objects as an array; a column of all objects at a time, not a dict of each."""
    objects = [entry for entries in lists for entry in entries]
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    members = [
        pa.array(list(map(attrgetter(field.name), objects)), field.type)
        for field in type_.value_type.fields
    ]
    values = pa.StructArray.from_arrays(members, fields=type_.value_type.fields)
    return pa.ListArray.from_arrays(offsets, values, type=type_)
