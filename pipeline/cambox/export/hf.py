"""Parquet as Hugging Face ``datasets`` reads it, one file a shard.

``data/train-00000-of-00004.parquet`` and so on. ``objects`` is a struct of lists, as in its
object detection guides: bbox is [x, y, width, height] in pixels, category a ClassLabel from 0.
Where images are extracted, they are in the column ``image``; ``shard`` and ``key`` say where they
come from otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cambox.export.writer import Exported, Writer
from cambox.training.selection import ClassList

# Few, because readers take a row group at once, and it holds the images.
_ROWS_WITH_IMAGES = 100
_ROWS = 1000
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_OBJECTS = pa.struct(
    [
        ("id", pa.list_(pa.int64())),
        ("area", pa.list_(pa.float32())),
        ("bbox", pa.list_(pa.list_(pa.float32(), 4))),
        ("category", pa.list_(pa.int64())),
        ("score", pa.list_(pa.float32())),
    ]
)


class HuggingFaceWriter(Writer):
    """Writes one Parquet file a shard, some rows at a time."""

    def __init__(self, folder: Path, classes: ClassList, with_images: bool) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        self.rows_at_once = _ROWS_WITH_IMAGES if with_images else _ROWS
        self.schema = _schema(classes, with_images)
        self.rows: list[dict[str, Any]] = []
        self.writer: pq.ParquetWriter | None = None
        self.boxes = 0

    def start_shard(self, number: int, count: int) -> None:
        """Begin the file of a shard."""
        self.close()
        name = f"train-{number:05d}-of-{count:05d}.parquet"
        self.writer = pq.ParquetWriter(self.data / name, self.schema, compression="zstd")

    def add(self, exported: Exported) -> None:
        """Write one image."""
        image = exported.image
        corners = image.boxes.corners.astype(np.float32)
        sizes = corners[:, 2:] - corners[:, :2]
        row = {
            "image_id": image.image_id,
            "width": image.width,
            "height": image.height,
            "objects": {
                "id": list(range(self.boxes, self.boxes + len(sizes))),
                "area": sizes.prod(axis=1).tolist(),
                "bbox": np.concatenate([corners[:, :2], sizes], axis=1).tolist(),
                "category": image.boxes.class_id.tolist(),
                "score": image.boxes.score.tolist(),
            },
            "shard": image.shard,
            "key": image.key,
        }
        if exported.data is not None:
            row["image"] = {"bytes": exported.data, "path": exported.file_name}
        self.boxes += len(sizes)
        self.rows.append(row)
        if len(self.rows) >= self.rows_at_once:
            self._write()

    def close(self) -> None:
        """End the file of the last shard."""
        if self.writer is not None:
            self._write()
            self.writer.close()
            self.writer = None

    def _write(self) -> None:
        assert self.writer is not None
        self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows.clear()


def _schema(classes: ClassList, with_images: bool) -> pa.Schema:
    fields = [("image_id", pa.int64())]
    if with_images:
        fields.append(("image", _IMAGE))
    fields += [("width", pa.int32()), ("height", pa.int32()), ("objects", _OBJECTS)]
    fields += [("shard", pa.string()), ("key", pa.string())]
    # What the types alone do not say: where images are, and the names of the classes.
    features: dict[str, Any] = {name: _feature(kind) for name, kind in fields}
    features["objects"]["category"]["feature"] = {
        "names": list(classes.names),
        "_type": "ClassLabel",
    }
    if with_images:
        features["image"] = {"_type": "Image"}
    description = json.dumps({"info": {"features": features}})
    return pa.schema(fields, {"huggingface": description})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A type in the words of ``datasets``; "Sequence" is the one that old and new versions know."""
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        length = {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}
        return {"feature": _feature(kind.value_type), **length, "_type": "Sequence"}
    # Arrow prints float32 as "float".
    return {"dtype": "float32" if kind == pa.float32() else str(kind), "_type": "Value"}
