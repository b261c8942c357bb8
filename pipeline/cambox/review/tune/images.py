"""The images with true boxes, and the maps that a pass stored of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.errors import RequestError
from cambox.output.reading import published_recipe, read_published, recipe_footer
from cambox.output.rows import StoredMap
from cambox.review.rows_with_truth import UNKNOWN_CLASS, true_boxes_by_class
from cambox.review.truth import Truth, read_truth

_COLUMNS = ("key", "shard", "width", "height", "labels", "objects", "maps")


@dataclass(frozen=True)
class ClassMap:
    """A stored map, and what its row says of its class.

    Attributes:
        rank: 0 for a given label.
        class_score: the probability of the class, 0 to 1.
    """

    class_id: int
    rank: int
    class_score: float
    stored: StoredMap


@dataclass(frozen=True)
class TuneImage:
    """One image.

    Attributes:
        size: (height, width) in pixels; None where it could not be read, which has no maps.
        true_boxes: (n, 4) pixels, by class.
    """

    key: str
    size: tuple[int, int] | None
    true_boxes: Mapping[int, np.ndarray]
    maps: tuple[ClassMap, ...]


@dataclass(frozen=True)
class PassImages:
    """What one pass left of the images with true boxes, in the order of their keys.

    Attributes:
        input_size: (height, width) of the network's input.
    """

    images: tuple[TuneImage, ...]
    input_size: tuple[int, int]


def read_pass(folder: str, truth_uri: str, on_file: Callable[[], None] | None = None) -> PassImages:
    """Read what a pass stored.

    Raises:
        RequestError: the truth cannot be read or has no image of the pass, or an image twice.
    """
    filesystem, recipe = published_recipe(folder)
    footer = recipe_footer(filesystem, recipe)
    truth = read_truth(truth_uri, footer.classes)
    keys = pa.array(truth.keys, pa.string())
    images: list[TuneImage] = []
    rows = 0
    for _, batch in read_published(filesystem, recipe, _COLUMNS, on_file):
        rows += batch.num_rows
        wanted = batch.filter(pc.is_in(batch["key"], value_set=keys)).to_pylist()
        images += [_image(row, truth) for row in wanted]
    images.sort(key=lambda image: image.key)
    for image, after in itertools.pairwise(images):
        if image.key == after.key:
            raise RequestError(
                f"--truth: {image.key!r} has a row in two shards; give the samples keys of their "
                "own"
            )
    if not images:
        raise RequestError(
            f"--truth: none of the {len(truth.images)} images of {truth_uri} is among the {rows} "
            "samples of the shards; an image is named by its sample's key, with or without the "
            "extension"
        )
    height, width = json.loads(footer.recipe)["model"]["input_size"]
    return PassImages(tuple(images), (height, width))


def _image(row: Mapping[str, Any], truth: Truth) -> TuneImage:
    name = truth.name_of(row["key"])
    assert name is not None
    true_boxes = true_boxes_by_class(truth.images[name], tuple(row["labels"] or ()))
    # A map without any box is constant: no settings give it one, so its score is not needed.
    scores = {(entry["class_id"], entry["rank"]): entry["class_score"] for entry in row["objects"]}
    maps = (StoredMap(**entry) for entry in row["maps"])
    return TuneImage(
        key=row["key"],
        size=None if row["width"] is None else (row["height"], row["width"]),
        true_boxes={
            class_id: boxes for class_id, boxes in true_boxes.items() if class_id != UNKNOWN_CLASS
        },
        maps=tuple(
            ClassMap(stored.class_id, stored.rank, scores[stored.class_id, stored.rank], stored)
            for stored in maps
            if (stored.class_id, stored.rank) in scores
        ),
    )


def pair_count(images: Sequence[TuneImage]) -> int:
    """(image, class) pairs with true boxes."""
    return sum(len(image.true_boxes) for image in images)
