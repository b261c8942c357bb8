"""The rows of one shard from two outputs, with the boxes that a rule makes of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.boxes import Boxes, at_edge, pairs_by_overlap
from cambox.console import counted
from cambox.errors import RequestError
from cambox.fuse import Rule
from cambox.fuse.rules import combine
from cambox.output.rows import SCHEMA, Entries, as_numpy, boxes_from_arrow, boxes_to_arrow

SAMPLE = ("key", "sample_index", "width", "height")
"""What tells that two rows are of one sample, decoded to the same pixels."""


@dataclass(frozen=True)
class Fusion:
    """How boxes of two outputs are put together; see ``rules.combine``."""

    rule: Rule
    overlap: float
    weights: tuple[float, float]

    def to_settings(self) -> dict[str, Any]:
        """What of it shapes the rows, in plain types."""
        settings: dict[str, Any] = {"rule": self.rule.value}
        if self.rule is not Rule.replace:
            settings["iou"] = self.overlap
        if self.rule in (Rule.fuse, Rule.agree):
            settings["weights"] = list(self.weights)
        return settings


@dataclass(frozen=True)
class Fused:
    """What is to be said of rows that were made of two outputs'.

    Attributes:
        boxes_a, boxes_b: of the two.
        in_both: of these, pairs that are the same.
        unknown: boxes of B, of classes that A's row does not tell; they are left out.
        boxes: that were written.
    """

    rows: int = 0
    boxes_a: int = 0
    boxes_b: int = 0
    in_both: int = 0
    unknown: int = 0
    boxes: int = 0

    def __add__(self, other: Fused) -> Fused:
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return Fused(*(mine + its for mine, its in both))

    def to_json(self) -> dict[str, int]:
        """The same for machines."""
        return dict(vars(self))

    def lines(self, seconds: float) -> list[str]:
        """The same for people."""
        rate = self.rows / seconds if seconds else 0.0
        lines = [
            f"{counted(self.rows, 'row')}, {counted(self.boxes, 'box')} of {self.boxes_a} in A and "
            f"{self.boxes_b} in B, of which {self.in_both} are in both; {rate:.1f} images/s"
        ]
        if self.unknown:
            lines.append(
                f"{self.unknown} boxes of B are of classes that are neither labels nor among the "
                "top-k of A's row, and were left out; with a larger cam.top_k in A they are kept"
            )
        return lines


def fuse_rows(
    first: pa.Table, second: pa.Table, fusion: Fusion, class_names: tuple[str, ...]
) -> tuple[pa.Table, Fused]:
    """A's rows with the boxes of both, and what there is in them.

    Args:
        first, second: rows of one shard in A and B; of the second, ``SAMPLE`` and ``objects``.

    Raises:
        RequestError: they are not of the same samples.
    """
    _require_same_samples(first, second)
    of_a, of_b = (boxes_from_arrow(table.column("objects")) for table in (first, second))
    known, rank = _ranks(first, of_a, of_b)
    kept = of_b.with_columns(rank=rank)[known]
    made = combine(of_a, kept, fusion.rule, fusion.overlap, fusion.weights)
    width, height = (
        as_numpy(first.column(side).combine_chunks()).astype(np.float64)[made.image]
        for side in ("width", "height")
    )
    made = made.with_columns(touches_edge=at_edge(made.scaled(1 / width, 1 / height).corners))
    objects = boxes_to_arrow(made, first.num_rows, class_names)
    rows = first.select(SCHEMA.names)
    rows = rows.set_column(rows.schema.get_field_index("objects"), "objects", objects).cast(SCHEMA)
    in_both = int((pairs_by_overlap(of_a, of_b)[2] >= fusion.overlap).sum())
    unknown = int((~known).sum())
    return rows, Fused(first.num_rows, len(of_a), len(of_b), in_both, unknown, len(made))


def _require_same_samples(first: pa.Table, second: pa.Table) -> None:
    if first.num_rows != second.num_rows:
        raise RequestError(
            f"{counted(first.num_rows, 'row')} where B has {second.num_rows}; annotate both from "
            "the same shards"
        )
    for name in SAMPLE:
        one, two = (table.column(name) for table in (first, second))
        both_null = pc.and_(pc.is_null(one), pc.is_null(two))
        same = as_numpy(pc.or_(pc.fill_null(pc.equal(one, two), False), both_null))
        if not same.all():
            row = int(same.argmin())
            raise RequestError(
                f"row {row} has the {name} {one[row]} where B has {two[row]}; annotate both from "
                "the same shards"
            )


def _ranks(first: pa.Table, of_a: Boxes, of_b: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """(n,) whether A's row tells the class of each of B's boxes, and the rank that it has there.

    That of A's own boxes of the class, where it has any: a class of an image has one rank. Else B's
    kind of rank if A can tell it, a label's or a predicted class's, else the other.
    """
    labels, classes = (Entries.of(first.column(name), name) for name in ("labels", "classes"))
    given = dict.fromkeys(_keys(labels.row, labels["item"]), 0)
    predicted = dict(
        zip(_keys(classes.row, classes["class_id"]), classes["rank"].tolist(), strict=True)
    )
    own = dict(zip(_keys(of_a.image, of_a.class_id), of_a.rank.tolist(), strict=True))
    of_kind = {True: predicted | given | own, False: given | predicted | own}
    ranks = np.array(
        [
            of_kind[is_label].get(key, -1)
            for key, is_label in zip(
                _keys(of_b.image, of_b.class_id), (of_b.rank == 0).tolist(), strict=True
            )
        ],
        np.int64,
    )
    return ranks >= 0, ranks


def _keys(row: np.ndarray, class_id: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(row.tolist(), class_id.tolist(), strict=True))
