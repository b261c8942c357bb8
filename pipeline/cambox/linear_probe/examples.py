"""What a probe learns from: the stored features of pictures, and which classes each shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.errors import RequestError, some_of
from cambox.linear_probe.feature_file import ROWS_AT_ONCE, FeatureFile
from cambox.output.published_file import PublishedFile
from cambox.output.rows import SCHEMA, Entries, as_numpy

Activation = Literal["softmax", "sigmoid"]

FOLDS = 5
# A class with fewer pictures is in the training of some fold not at all.
LEAST_OF_A_CLASS = 2
_COLUMNS = ("key", "shard", "sample_index", "status", "labels")
_VECTORS = ("features", "border_features")


@dataclass(frozen=True)
class Examples:
    """N labelled pictures of K classes.

    Attributes:
        keys, shards, places: of each picture: its key, its shard's URI and place in it.
        features: (N, D), what the network's last layer sees.
        borders: (N, D), what it sees of the outermost cells alone; None where it does not
            see an average of cells.
        targets: (N, K) float32, 1 for a class that the picture shows, else 0.
        fold: (N,) from 0, by a hash of the key, so that a picture stays where it is as others come.
        activation: softmax where each picture shows one class.
        class_names: K.
        background: the class of pictures without any object, if there is one.
        left_out: pictures that nothing can be learnt from, by reason.
    """

    keys: list[str]
    shards: list[str]
    places: np.ndarray
    features: FeatureFile
    borders: FeatureFile | None
    targets: np.ndarray
    fold: np.ndarray
    activation: Activation
    class_names: tuple[str, ...]
    background: str | None
    left_out: dict[str, int]

    @property
    def counts(self) -> np.ndarray:
        """(K,) pictures of each class."""
        counts: np.ndarray = self.targets.sum(axis=0).astype(np.int64)
        return counts


def read_examples(
    files: Sequence[PublishedFile],
    class_names: Sequence[str],
    background: str | None,
    activation: Activation | None,
    folder: Path,
    of_model: Sequence[str] = (),
    on_file: Callable[[int], None] | None = None,
) -> Examples:
    """Read the labelled pictures of files with features, in the files' order.

    Args:
        class_names: that labels count; none: see ``of_model``.
        background: the class of pictures without any object. Where it is none of the names it
            becomes the last class, of the pictures whose label says that they show none.
        activation: None: softmax where every picture shows one class, else sigmoid.
        folder: with room for the features in temporary files.
        of_model: the names of the network's own classes, which are taken where the labels count as
            many and say no names; else they are called by their numbers.
        on_file: called with the number of files, after each.

    Raises:
        RequestError: a file cannot be read, or the labels do not do.
    """
    parts = []
    features, borders = FeatureFile(folder), FeatureFile(folder)
    for file in files:
        for batch in file.batches((*_COLUMNS, *_VECTORS), ROWS_AT_ONCE):
            parts.append(batch.select(_COLUMNS))
            used = pa.array(_has_features(batch) & _is_labelled(batch, background, activation))
            for column, vectors in zip(_VECTORS, (features, borders), strict=True):
                vectors.append(_vectors(batch.column(column).filter(used), column))
        if on_file is not None:
            on_file(len(files))
    rows = pa.Table.from_batches(parts, pa.schema([SCHEMA.field(name) for name in _COLUMNS]))
    names = _names(rows, class_names, of_model, background)
    has_features, is_labelled = _has_features(rows), _is_labelled(rows, background, activation)
    kept = rows.filter(pa.array(has_features & is_labelled))
    labels: list[list[int]] = kept["labels"].to_pylist()
    if background is not None:
        labels = [one or [names.index(background)] for one in labels]
    targets = np.zeros((len(labels), len(names)), np.float32)
    for row, some in enumerate(labels):
        targets[row, some] = 1
    keys: list[str] = kept["key"].to_pylist()
    several = bool((is_labelled & ~_is_labelled(rows, background, "softmax")).any())
    left_out = {
        "unreadable or without an image": int((~has_features).sum()),
        "without one label": int((has_features & ~is_labelled).sum()),
    }
    examples = Examples(
        keys,
        kept["shard"].to_pylist(),
        kept["sample_index"].to_numpy(),
        features,
        borders if borders.shape == features.shape else None,
        targets,
        np.array([fold_of(key) for key in keys], np.int64),
        activation or ("sigmoid" if several else "softmax"),
        names,
        background,
        {reason: count for reason, count in left_out.items() if count},
    )
    _require_enough(examples)
    return examples


def _has_features(rows: pa.RecordBatch | pa.Table) -> np.ndarray:
    """(N,) bool."""
    return as_numpy(pc.equal(rows["status"], "ok"))


def _is_labelled(
    rows: pa.RecordBatch | pa.Table, background: str | None, activation: Activation | None
) -> np.ndarray:
    """(N,) bool; of a picture with several labels those do not say which class it is of."""
    counts = pc.list_value_length(rows["labels"])
    if activation != "softmax":
        return as_numpy(pc.is_valid(counts))
    classes = pc.max_element_wise(counts, 0 if background is None else 1, skip_nulls=False)
    return as_numpy(pc.fill_null(pc.equal(classes, 1), False))


def _vectors(vectors: pa.ListArray, column: str) -> np.ndarray:
    """(N, D) float16; D is 0 where they are empty."""
    flat = Entries.of(vectors, column)["item"]
    return flat.reshape(len(vectors), -1 if len(flat) else 0).astype(np.float16, copy=False)


def fold_of(key: str) -> int:
    """The fold of a picture, 0 to ``FOLDS`` - 1."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % FOLDS


def _names(
    rows: pa.Table, class_names: Sequence[str], of_model: Sequence[str], background: str | None
) -> tuple[str, ...]:
    labels = Entries.of(rows["labels"], "labels")
    largest = int(labels["item"].max(initial=-1))
    numbers = map(str, range(largest + 1))
    names = tuple(class_names) or tuple(of_model if len(of_model) == largest + 1 else numbers)
    if largest >= len(names):
        row = int(labels.row[labels["item"].argmax()])
        raise RequestError(
            f"input.class_names: it lists {len(names)} classes, and {rows['key'][row]} of "
            f"{rows['shard'][row]} has the label {largest}; give the list that the labels count"
        )
    if background is not None and background not in names:
        names = (*names, background)
    return names


def _require_enough(examples: Examples) -> None:
    counts = examples.counts
    with_pictures = np.flatnonzero(counts)
    if len(with_pictures) < (2 if examples.activation == "softmax" else 1):
        raise RequestError(
            f"input.labels: the labelled pictures show {len(with_pictures)} classes "
            f"({len(examples.keys)} pictures, left out: {examples.left_out or 'none'}), and a "
            f"classifier needs two; check input.labels, or give pictures of another class with "
            f"--background"
        )
    if len(np.unique(examples.fold)) < 2:
        raise RequestError(
            f"input.labels: {len(examples.keys)} labelled pictures are too few to hold any out; "
            f"give more"
        )
    few = [examples.class_names[place] for place in with_pictures if counts[place] == 1]
    if few:
        raise RequestError(
            f"input.labels: one picture each is of {some_of(few)}, and nothing can be held out of "
            f"one; give at least {LEAST_OF_A_CLASS} pictures a class, or take the class out"
        )
