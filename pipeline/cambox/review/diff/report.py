"""What two outputs have in common and what not, as counts; and the largest changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from cambox.output.footer import Footer
from cambox.sources.shards import Shard

OVERLAPS = (0.3, 0.5, 0.7, 0.9)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Part):
    """One of the two outputs.

    Attributes:
        rows, boxes: of the shards that both have.
    """

    folder: str
    recipe: str
    rows: int
    boxes: int


class ShardCounts(_Part):
    """Shards by where they are; ``identical`` are those of ``both`` with the same data."""

    both: int
    identical: int
    only_a: int
    only_b: int


class RowCounts(_Part):
    """Rows of the shards that both have, joined by key.

    Attributes:
        changed: of ``both``, with another status, or other boxes.
        statuses: of ``both``, "status in A -> status in B", where they differ.
        first_class_changed: of ``both``, the best predicted class is another.
    """

    both: int
    only_a: int
    only_b: int
    changed: int
    statuses: dict[str, int]
    first_class_changed: int


class BoxCounts(_Part):
    """Boxes of rows that both have, matched within image and class.

    Attributes:
        identical: of ``matched``, with the same corners.
        lost, gained: boxes of A, of B, that overlap none of the other.
        mean_overlap: IoU over ``matched``; None where there is none.
        overlap_histogram: ``matched`` by IoU in 20 equal steps from 0 to 1.
        share_above: of all boxes of both sides (a pair counts once), the share of pairs with an
            IoU of at least so much.
        mean_score_change: box_score in B minus that in A, over ``matched``.
    """

    matched: int
    identical: int
    lost: int
    gained: int
    mean_overlap: float | None
    overlap_histogram: list[int]
    share_above: dict[str, float]
    mean_score_change: float | None


class ClassChange(_Part):
    """The boxes of one class in all rows of the shards that both have."""

    class_name: str
    boxes_a: int
    boxes_b: int


class Change(_Part):
    """An image whose boxes changed.

    Attributes:
        amount: over its boxes, box_score x (1 - IoU); 1 - IoU is 1 for one that is lost or gained.
        status_a, status_b: of its row.
        problem: why there is no picture of it; None where there is.
    """

    key: str
    shard: str
    amount: float
    status_a: str
    status_b: str
    boxes_a: int
    boxes_b: int
    problem: str | None


class Difference(_Part):
    """The whole report."""

    schema_version: int = 1
    a: Side
    b: Side
    settings: dict[str, tuple[Any, Any]]
    same_classes: bool
    shards: ShardCounts
    rows: RowCounts
    boxes: BoxCounts
    classes: list[ClassChange]
    largest: list[Change]


@dataclass(frozen=True)
class ImageChange:
    """One image with its boxes in both outputs, to be drawn.

    Attributes:
        footer: of its file in B.
        row_a, row_b: as the Parquet files have them, without maps.
    """

    amount: float
    shard: Shard
    footer: Footer
    row_a: dict[str, Any]
    row_b: dict[str, Any]


def changed_settings(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The settings, by their full key, that differ; None where one side has none."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return {} if a == b else {prefix: (a, b)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(a.keys() | b.keys()):
        found |= changed_settings(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else key)
    return found


def histogram(overlap: np.ndarray) -> np.ndarray:
    """(20,) IoU in equal steps; 1 belongs to the last."""
    counts: np.ndarray = np.histogram(overlap, bins=np.linspace(0, 1, 21))[0]
    return counts
