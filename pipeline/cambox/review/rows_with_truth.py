"""The rows of an output beside the true boxes of their images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec import AbstractFileSystem

from cambox.errors import RequestError
from cambox.output.folders import Folder
from cambox.output.reading import read_published
from cambox.output.rows import StoredMap
from cambox.review.evaluate.sweep import SweepRule, sweep
from cambox.review.overlap import SIDES
from cambox.review.truth import ImageTruth, Truth

OK = "ok"
UNKNOWN_CLASS = -1
"""The class of a true box where neither the file nor the sample says one."""

_COLUMNS = ("key", "shard", "status", "width", "height", "labels", "classes", "objects", "maps")


@dataclass(frozen=True)
class FoundBoxes:
    """The pseudo boxes of one image, side by side.

    Attributes:
        class_id, rank, component: (n,) int.
        score: (n,) box_score, 0 to 1.
        corners: (n, 4) pixels of the upright image, half-open.
    """

    class_id: np.ndarray
    rank: np.ndarray
    component: np.ndarray
    score: np.ndarray
    corners: np.ndarray

    @classmethod
    def of(cls, objects: list[dict[str, Any]]) -> FoundBoxes:
        """From a row's ``objects``."""

        def column(name: str, kind: type) -> np.ndarray:
            return np.array([entry[name] for entry in objects], dtype=kind)

        corners = [[entry[side] for side in SIDES] for entry in objects]
        return cls(
            column("class_id", np.int64),
            column("rank", np.int64),
            column("component", np.int64),
            column("box_score", np.float64),
            np.array(corners, dtype=np.float64).reshape(-1, 4),
        )


@dataclass(frozen=True)
class JudgedImage:
    """One row, with the true boxes of its image.

    Attributes:
        size: (height, width) in pixels; None where the image could not be read.
        labels: the classes given with the sample; empty where there are none.
        first_class: the best predicted class; None where nothing was predicted.
        true_boxes: (n, 4) by class.
        swept: what ``sweep`` gives, by class, for given labels with a stored map.
    """

    key: str
    status: str
    size: tuple[int, int] | None
    labels: tuple[int, ...]
    first_class: int | None
    found: FoundBoxes
    true_boxes: Mapping[int, np.ndarray]
    swept: Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Judged:
    """What is there to compare.

    Attributes:
        images: with rows and a place in the truth, in the order of the rows.
        rows: of the output.
        without_row: images of the truth that the output has no row for.
        first_key: of the output; None where it has no row.
    """

    images: tuple[JudgedImage, ...]
    rows: int
    without_row: tuple[str, ...]
    first_key: str | None


def judge(
    filesystem: AbstractFileSystem,
    folder: Folder,
    truth: Truth,
    sweep_rule: SweepRule | None,
    on_file: Callable[[], None] | None = None,
) -> Judged:
    """Read the rows whose images have true boxes; the others are only counted.

    Args:
        sweep_rule: for stored maps; None: leave them alone.

    Raises:
        RequestError: a file is damaged, or an image of the truth has two rows.
    """
    images: list[JudgedImage] = []
    shard_of: dict[str, str] = {}
    rows = 0
    first_key: str | None = None
    keys = pa.array(truth.keys, pa.string())
    columns = [name for name in _COLUMNS if name != "maps" or sweep_rule is not None]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _, batch in read_published(filesystem, folder, columns, on_file):
            rows += batch.num_rows
            if first_key is None and batch.num_rows:
                first_key = batch["key"][0].as_py()
            wanted = batch.filter(pc.is_in(batch["key"], value_set=keys)).to_pylist()
            for row in wanted:
                name = truth.name_of(row["key"])
                assert name is not None
                if name in shard_of:
                    raise RequestError(
                        f"--truth: {name!r} has a row of {shard_of[name]} and one of "
                        f"{row['shard']}; give the samples keys of their own"
                    )
                shard_of[name] = row["shard"]
            images += _judged(wanted, truth, sweep_rule, pool)
    without_row = tuple(name for name in truth.images if name not in shard_of)
    return Judged(tuple(images), rows, without_row, first_key)


def _judged(
    rows: list[dict[str, Any]], truth: Truth, sweep_rule: SweepRule | None, pool: Executor
) -> Iterator[JudgedImage]:
    def one(row: dict[str, Any]) -> JudgedImage:
        name = truth.name_of(row["key"])
        assert name is not None
        return _image(row, truth.images[name], sweep_rule)

    return pool.map(one, rows)


def _image(row: dict[str, Any], truth: ImageTruth, sweep_rule: SweepRule | None) -> JudgedImage:
    labels = tuple(dict.fromkeys(row["labels"] or ()))
    size = None if row["width"] is None else (row["height"], row["width"])
    true_boxes = true_boxes_by_class(truth, labels)
    swept = {}
    if sweep_rule is not None and size is not None:
        for entry in row.get("maps", ()):
            class_id = entry["class_id"]
            if entry["rank"] == 0 and class_id in true_boxes:
                swept[class_id] = sweep(StoredMap(**entry), true_boxes[class_id], size, sweep_rule)
    return JudgedImage(
        key=row["key"],
        status=row["status"],
        size=size,
        labels=labels,
        first_class=next(
            (entry["class_id"] for entry in row["classes"] if entry["rank"] == 1), None
        ),
        found=FoundBoxes.of(row["objects"]),
        true_boxes=true_boxes,
        swept=swept,
    )


def true_boxes_by_class(truth: ImageTruth, labels: tuple[int, ...]) -> dict[int, np.ndarray]:
    """The true boxes (n, 4) by class: the file's, or else each label's of the sample."""
    if len(truth.boxes) == 0:
        return {}
    if truth.classes is None:
        return dict.fromkeys(labels or (UNKNOWN_CLASS,), truth.boxes)
    return {
        int(class_id): truth.boxes[truth.classes == class_id]
        for class_id in np.unique(truth.classes)
    }
