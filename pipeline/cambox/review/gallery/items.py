"""What the gallery's page holds of each row, in the names that its script knows."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cambox.output.rows import StoredMap

# Finer maps are shown at this size: the page draws them smoothly anyway.
MOST_CELLS = 32
_SIDES = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True, slots=True)
class ItemBox:
    """A pseudo box; its corners as shares of the image's width and height, 0 to 1."""

    class_id: int
    rank: int
    component: int
    class_score: float
    box_score: float
    at_edge: bool
    corners: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ItemMap:
    """A map stretched to 0..255.

    Attributes:
        values: height x width bytes, row by row, in base64.
    """

    class_id: int
    rank: int
    height: int
    width: int
    values: str


@dataclass(frozen=True, slots=True)
class Item:
    """One row.

    Attributes:
        shard: its place in the page's list of shards.
        width, height: of the upright image; None where it could not be decoded.
        predicted: (class_id, probability), the best first.
        problem: why there is no picture; None where there is one.
    """

    key: str
    shard: int
    sample_index: int
    status: str
    error: str | None
    width: int | None
    height: int | None
    labels: tuple[int, ...]
    predicted: tuple[tuple[int, float], ...]
    boxes: tuple[ItemBox, ...]
    maps: tuple[ItemMap, ...]
    problem: str | None


def item_of(row: Mapping[str, Any], shard: int, problem: str | None) -> Item:
    """A row of the Parquet file, for the page."""
    return Item(
        key=row["key"],
        shard=shard,
        sample_index=row["sample_index"],
        status=row["status"],
        error=row["error"],
        width=row["width"],
        height=row["height"],
        labels=tuple(row["labels"] or ()),
        predicted=tuple(
            (entry["class_id"], round(entry["probability"], 4)) for entry in row["classes"]
        ),
        boxes=tuple(_box(entry, row["width"], row["height"]) for entry in row["objects"]),
        maps=tuple(_map(StoredMap(**entry)) for entry in row.get("maps", ())),
        problem=problem,
    )


def _box(entry: Mapping[str, Any], width: int, height: int) -> ItemBox:
    left, top, right, bottom = (entry[side] for side in _SIDES)
    return ItemBox(
        class_id=entry["class_id"],
        rank=entry["rank"],
        component=entry["component"],
        class_score=round(entry["class_score"], 4),
        box_score=round(entry["box_score"], 4),
        at_edge=entry["touches_edge"],
        corners=(
            round(left / width, 5),
            round(top / height, 5),
            round(right / width, 5),
            round(bottom / height, 5),
        ),
    )


def _map(stored: StoredMap) -> ItemMap:
    steps = np.frombuffer(stored.values, np.uint8).reshape(stored.height, stored.width)
    scale = MOST_CELLS / max(steps.shape)
    if scale < 1:
        size = max(1, round(stored.width * scale)), max(1, round(stored.height * scale))
        steps = np.asarray(cv2.resize(steps, size, interpolation=cv2.INTER_AREA))
    height, width = steps.shape
    values = base64.b64encode(steps.tobytes()).decode()
    return ItemMap(stored.class_id, stored.rank, height, width, values)
