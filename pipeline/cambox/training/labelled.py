"""An output opened for training: its images with the boxes that a selection leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.boxes import Boxes
from cambox.errors import RequestError
from cambox.output.reading import PublishedRecipe, open_recipe
from cambox.output.reviewed import REVIEWED
from cambox.output.rows import SIDES, as_numpy, boxes_from_arrow
from cambox.training.selection import ClassList, Selection, read_pick

NO_BOX = "no box"
NOT_PICKED = "not picked"
_CHOSEN_BY = ("class_id", "rank", "box_score", "component")
IMAGE_COLUMNS = (
    *("key", "status", "width", "height", REVIEWED),
    *(f"objects.list.element.{field}" for field in _CHOSEN_BY),
)
"""What says which images and boxes are taken; the boxes' corners are not read."""
COLUMNS = (*IMAGE_COLUMNS, *(f"objects.list.element.{side}" for side in SIDES))


@dataclass(frozen=True)
class LabelledImage:
    """An image and its boxes.

    Attributes:
        image_id: the number of its row in the recipe's folder, from 0, files sorted by name.
        shard: that its row is of; it may lie elsewhere by now.
        width, height: of the upright image.
        boxes: in its pixels; ``class_id`` is the place in the ``ClassList``.
    """

    image_id: int
    key: str
    shard: str
    width: int
    height: int
    boxes: Boxes


@dataclass(frozen=True)
class LabelledImages:
    """The m images that a selection takes of some rows of a shard, side by side.

    Arrays and not objects, so that processes that only read them share their memory.

    Attributes:
        image_ids, widths, heights: (m,) int64.
        keys: (m,) strings.
        boxes: of all of them, as in ``LabelledImage``; ``image`` is the place here, ascending.
        left_out: how many images were not taken, by their status; those that lack only a box
            under ``NO_BOX``.
    """

    shard: str
    image_ids: np.ndarray
    keys: pa.Array
    widths: np.ndarray
    heights: np.ndarray
    boxes: Boxes
    left_out: Counter[str]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> LabelledImage:
        start, end = np.searchsorted(self.boxes.image, (place, place + 1))
        return LabelledImage(
            int(self.image_ids[place]),
            self.keys[place].as_py(),
            self.shard,
            int(self.widths[place]),
            int(self.heights[place]),
            self.boxes[start:end],
        )

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[place] for place in range(len(self)))


@dataclass(frozen=True)
class TrainingSet:
    """A recipe's files, and what is taken of them.

    It holds no open file, so it may be pickled and survives a fork.

    Attributes:
        first_ids: the ``image_id`` of each file's first row.
        max_pixels: of the largest image that the recipe decodes.
        picked: the keys of the images that are taken, by shard; None: of all. The files of other
            shards are not among the recipe's here.
    """

    recipe: PublishedRecipe
    selection: Selection
    classes: ClassList
    first_ids: tuple[int, ...]
    max_pixels: int
    picked: Mapping[str, frozenset[str]] | None = None

    @classmethod
    def open(
        cls, output: str, selection: Selection, storage_options: Mapping[str, Any] | None = None
    ) -> TrainingSet:
        """Read the footers of an output.

        Args:
            output: a recipe's folder, or an output: its only recipe, or its latest.

        Raises:
            RequestError: there is no such output, a file in it is damaged, or the recipe has not
                the classes that are asked for.
        """
        recipe = open_recipe(output, storage_options)
        rows = [file.rows for file in recipe.files]
        first_ids = list(accumulate(rows[:-1], initial=0))
        picked = None if selection.pick is None else read_pick(selection.pick)
        if picked is not None:
            both = zip(recipe.files, first_ids, strict=True)
            kept = [(file, first) for file, first in both if file.shard.uri in picked]
            if not kept:
                raise RequestError(
                    f"--pick: none of the images of {selection.pick} is of a shard of {output}; "
                    "give a pick of this output"
                )
            recipe = replace(recipe, files=tuple(file for file, _ in kept))
            first_ids = [first for _, first in kept]
        return cls(
            recipe,
            selection,
            ClassList.of(recipe.footer.classes, selection.classes),
            tuple(first_ids),
            int(recipe.settings["input"]["max_pixels"]),
            picked,
        )

    def read(self, index: int, columns: Sequence[str] = COLUMNS) -> Iterator[LabelledImages]:
        """What the selection takes of one file, some rows at a time.

        Args:
            columns: ``IMAGE_COLUMNS`` at least; without the corners' they are zeros.

        Raises:
            RequestError: the file cannot be read, or is damaged.
        """
        file, first_id = self.recipe.files[index], self.first_ids[index]
        picked = None if self.picked is None else self.picked[file.shard.uri]
        for batch in file.batches(columns):
            yield _taken(batch, file.shard.uri, first_id, self.selection, self.classes, picked)
            first_id += batch.num_rows


def _taken(
    batch: pa.RecordBatch,
    shard: str,
    first_id: int,
    selection: Selection,
    classes: ClassList,
    picked: frozenset[str] | None,
) -> LabelledImages:
    boxes = boxes_from_arrow(batch["objects"])
    boxes = boxes.with_columns(class_id=classes.places()[boxes.class_id])
    taken = (boxes.class_id >= 0) & (boxes.score >= np.float32(selection.min_score))
    if selection.only_labels:
        taken &= boxes.rank == 0
    if selection.max_rank is not None:
        taken &= boxes.rank <= selection.max_rank
    if selection.max_component is not None:
        taken &= boxes.component <= selection.max_component

    statuses = np.array(batch["status"].to_pylist(), dtype=object)
    sized = as_numpy(batch["width"].is_valid()) & as_numpy(batch["height"].is_valid())
    wanted = sized & np.isin(statuses, selection.statuses)
    has_box = np.bincount(boxes.image[taken], minlength=batch.num_rows) > 0
    # Of a picture that a person found empty it is known.
    empty = as_numpy(batch[REVIEWED]) & (np.bincount(boxes.image, minlength=len(wanted)) == 0)
    kept = wanted if selection.keep_empty else wanted & (has_box | empty)
    if picked is not None:
        asked_for = as_numpy(pc.is_in(batch["key"], pa.array(sorted(picked), pa.string())))
        kept = wanted = wanted & asked_for
        statuses[~asked_for] = NOT_PICKED
    left_out = Counter(statuses[~wanted].tolist())
    if no_box := int(np.count_nonzero(wanted & ~kept)):
        left_out[NO_BOX] = no_box

    boxes = boxes[taken & kept[boxes.image]]
    places = np.cumsum(kept) - 1
    rows = np.flatnonzero(kept)
    images = batch.select(["key", "width", "height"]).take(pa.array(rows))
    return LabelledImages(
        shard=shard,
        image_ids=first_id + rows,
        keys=images["key"],
        widths=as_numpy(images["width"]).astype(np.int64),
        heights=as_numpy(images["height"]).astype(np.int64),
        boxes=boxes.with_columns(image=places[boxes.image]),
        left_out=left_out,
    )
