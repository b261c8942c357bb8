"""One row per sample: the columns of a published file, and boxes as a column and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.boxes import Boxes

SIDES = ("x_min", "y_min", "x_max", "y_max")
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
        *((side, pa.float32()) for side in SIDES),
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
FEATURES_FIELDS = [
    pa.field(name, pa.list_(pa.float16()), nullable=False)
    for name in ("features", "border_features")
]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A class of the model's top-k; rank from 1, probability 0..1."""

    class_id: int
    rank: int
    probability: float


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

    @property
    def steps(self) -> np.ndarray:
        """The bytes (h, w) uint8."""
        return np.frombuffer(self.values, np.uint8).reshape(self.height, self.width)

    def restore(self) -> np.ndarray:
        """The map (h, w) float32, exact to half a step of (high - low) / 255."""
        span = self.high - self.low
        return (self.low + self.steps.astype(np.float32) / 255 * span).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one sample, but for its boxes; empty where nothing was found.

    Attributes:
        features: (D,) float16, what the last layer sees of the image; none unless they are stored.
        border_features: (D,) float16, what it would see of the outermost cells alone, where it sees
            an average of the cells.
    """

    key: str
    shard: str
    sample_index: int
    status: str
    error: str | None
    width: int | None
    height: int | None
    labels: tuple[int, ...] | None
    classes: tuple[ClassScore, ...] = ()
    maps: tuple[StoredMap, ...] = ()
    features: np.ndarray | tuple[()] = ()
    border_features: np.ndarray | tuple[()] = ()


def schema(with_maps: bool, with_features: bool = False) -> pa.Schema:
    """The file's columns; those of maps and features only where they are stored."""
    more = [MAPS_FIELD] * with_maps + FEATURES_FIELDS * with_features
    return pa.schema([*SCHEMA, *more])


def table(
    rows: Sequence[Row],
    boxes: Boxes,
    class_names: Sequence[str],
    with_maps: bool,
    with_features: bool = False,
) -> pa.Table:
    """The rows as one Arrow table.

    Args:
        boxes: in pixels, ``image`` being the place of their row, ascending.
        class_names: of the recipe, by class id.
    """
    fields = schema(with_maps, with_features)

    def column(field: pa.Field) -> pa.Array:
        if field.name == "objects":
            return boxes_to_arrow(boxes, len(rows), class_names)
        values = [getattr(row, field.name) for row in rows]
        if not (pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type)):
            return pa.array(values, field.type)
        entries = [entry for entries in values for entry in entries]
        members = {
            member.name: [getattr(entry, member.name) for entry in entries]
            for member in field.type.value_type
        }
        return _lists(list(map(len, values)), members, field.type)

    return pa.Table.from_arrays([column(field) for field in fields], schema=fields)


def _lists(counts: Sequence[int], members: Mapping[str, Any], type_: pa.ListType) -> pa.ListArray:
    """Lists of so many structs each, their fields a column of all at a time, not a dict of each."""
    fields = list(type_.value_type)
    arrays = [pa.array(members[field.name], field.type) for field in fields]
    offsets = np.cumsum([0, *counts], dtype=np.int32)
    structs = pa.StructArray.from_arrays(arrays, fields=fields)
    return pa.ListArray.from_arrays(offsets, structs, type=type_)


def boxes_to_arrow(boxes: Boxes, rows: int, class_names: Sequence[str]) -> pa.ListArray:
    """The column ``objects`` of so many rows; arguments as in ``table``."""
    members = {
        "class_id": boxes.class_id,
        "class_name": pa.array(class_names, pa.string()).take(pa.array(boxes.class_id)),
        "rank": boxes.rank,
        "class_score": boxes.class_score.astype(np.float32),
        "box_score": boxes.score.astype(np.float32),
        **dict(zip(SIDES, boxes.corners.T.astype(np.float32), strict=True)),
        "component": boxes.component,
        "touches_edge": boxes.touches_edge,
    }
    counts = np.bincount(boxes.image, minlength=rows).tolist()
    return _lists(counts, members, pa.list_(OBJECT_TYPE))


def spelled(keys: pa.Array) -> pa.Array:
    """Keys as ``one_spelling`` spells each."""
    plain = pc.replace_substring_regex(keys, r"^(\./+)+", "")
    return pc.utf8_normalize(plain, form="NFC")


def boxes_from_arrow(objects: pa.ListArray) -> Boxes:
    """The boxes of a column ``objects``, ``image`` being the place of their row.

    Fields that were not read have the value that ``Boxes.of`` gives them.
    """
    entries = Entries.of(objects, "objects")
    names = {name: name for name in ("class_id", "rank", "component", "class_score")}
    names |= {"score": "box_score", "touches_edge": "touches_edge"}
    columns = {name: entries[field] for name, field in names.items() if field in entries.fields}
    corners = (
        np.stack([entries[side] for side in SIDES], axis=1)
        if "x_min" in entries.fields
        else np.zeros((len(entries.row), 4))
    )
    return Boxes.of(corners, image=entries.row, **columns)


@dataclass(frozen=True)
class Entries:
    """The entries of one list column, side by side as arrays, those with a null left out.

    Attributes:
        whole: (m,) bool of all entries, whether one has no null; the n others follow.
        all_rows: (m,) the row, within the batch, of all entries.
        row: (n,) the same of those without a null.
        fields: (n,) each, by the name of the struct's field; ``item`` for a list of numbers.
    """

    column: str
    whole: np.ndarray
    all_rows: np.ndarray
    row: np.ndarray
    fields: dict[str, pa.Array]

    @property
    def complete(self) -> bool:
        """Whether there was no entry to leave out."""
        return bool(self.whole.all())

    def __getitem__(self, field: str) -> np.ndarray:
        return as_numpy(self.fields[field])

    @classmethod
    def of(cls, values: pa.ListArray | pa.ChunkedArray, column: str) -> Entries:
        """Take a column apart."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        flat = values.flatten()
        row = as_numpy(pc.list_parent_indices(values))
        fields = (
            dict(zip((field.name for field in flat.type), flat.flatten(), strict=True))
            if pa.types.is_struct(flat.type)
            else {"item": flat}
        )
        whole = np.ones(len(row), bool)
        for field in fields.values():
            whole &= as_numpy(pc.is_valid(field))
        kept = {name: field.filter(whole) for name, field in fields.items()}
        return cls(column, whole, row, row[whole], kept)


def as_numpy(values: pa.Array) -> np.ndarray:
    """A copy where Arrow's own memory does not do; a null becomes NaN."""
    array: np.ndarray = values.to_numpy(zero_copy_only=False)
    return array
