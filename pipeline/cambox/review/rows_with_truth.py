"""The rows of an output beside true boxes; the boxes that their maps give by other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from unicodedata import is_normalized

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cambox.boxes import Boxes, best_overlaps, place_in_group
from cambox.cams.geometry import MapGeometry
from cambox.config_cam import BoxSettings
from cambox.console import Advance
from cambox.errors import RequestError
from cambox.output.reading import PublishedRecipe
from cambox.output.rows import SIDES, StoredMap, boxes_from_arrow, spelled
from cambox.review.truth import Truth
from cambox.review.truth_files import UNKNOWN_CLASS
from cambox.threads import grouped, in_order, usable_cpus

OK = "ok"
IMAGES_AT_ONCE = 16

Ranks = Callable[[np.ndarray], np.ndarray] | None
"""From ranks (n,), 0 for a given label, to (n,) bool: which are looked at. None: all."""

_OF_BOXES = ("class_id", "rank", "component", "class_score", "box_score", *SIDES)
_COLUMNS = (
    *("key", "shard", "status", "width", "height", "labels", "classes"),
    *(f"objects.list.element.{name}" for name in _OF_BOXES),
)


@dataclass(frozen=True)
class RowWithTruth:
    """One row, with the true boxes of its image.

    Attributes:
        size: (height, width) in pixels; None where the image could not be read.
        labels: the classes given with the sample; empty where there are none.
        predicted: the top-k classes, the best first; empty where nothing was predicted.
        boxes: the pseudo boxes, in pixels.
        true_boxes: in pixels, ascending by class; where the file says no classes each is there
            for each label, or once with ``UNKNOWN_CLASS``.
        maps: as stored; empty where they were not asked for.
        class_scores: of each map, the probability of its class; NaN where the row does not tell
            it: of a label beyond the model's top-k that no box is left of.
    """

    key: str
    status: str
    size: tuple[int, int] | None
    labels: tuple[int, ...]
    predicted: tuple[int, ...]
    boxes: Boxes
    true_boxes: Boxes
    maps: tuple[StoredMap, ...] = ()
    class_scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class MappedImages:
    """The images of an output with true boxes; boxes of them have their place as ``image``.

    Attributes:
        rows: in the order of the output.
        geometry: of the network that made them.
        total: rows of the output.
        without_row: images of the truth that the output has no row for.
        other_unicode: images that the truth names in another Unicode normalisation than the key.
        first_key: of the output; None where it has no row.
    """

    rows: tuple[RowWithTruth, ...]
    geometry: MapGeometry
    total: int = 0
    without_row: tuple[str, ...] = ()
    other_unicode: tuple[str, ...] = ()
    first_key: str | None = None

    def by_key(self) -> MappedImages:
        """In the order of their keys, without the true boxes of no known class."""
        known = [
            replace(row, true_boxes=row.true_boxes[row.true_boxes.class_id != UNKNOWN_CLASS])
            for row in sorted(self.rows, key=lambda row: row.key)
        ]
        return replace(self, rows=tuple(known))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def true_boxes(self) -> Boxes:
        """In pixels, ascending by image and class."""
        return numbered(row.true_boxes for row in self.rows)

    @cached_property
    def written_boxes(self) -> Boxes:
        """Those of the rows, with corners as shares; ``outside`` is NaN, as no map is known."""
        boxes = numbered(row.boxes for row in self.rows)
        height, width = self._sizes[boxes.image].T
        return boxes.scaled(1 / width, 1 / height).with_columns(outside=np.full(len(boxes), np.nan))

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([row.size or (0, 0) for row in self.rows]).reshape(-1, 2)

    def in_pixels(self, boxes: Boxes) -> Boxes:
        """Boxes of these images with corners in pixels instead of shares."""
        height, width = self._sizes[boxes.image].T
        return boxes.scaled(width, height)

    def overlaps(self, boxes: Boxes) -> np.ndarray:
        """(n,) the best IoU of each box, in shares, with a true one of its image and class."""
        return best_overlaps(self.in_pixels(boxes), self.true_boxes)

    def boxes(
        self, settings: Sequence[BoxSettings], ranks: Ranks = None, on_image: Advance | None = None
    ) -> list[Boxes]:
        """The boxes of all images; see ``boxes_in_parts``."""
        parts = [boxes for _, boxes in self.boxes_in_parts(settings, ranks, on_image)]
        return [Boxes.joined(of_one) for of_one in zip(*parts, strict=True)]

    def boxes_in_parts(
        self, settings: Sequence[BoxSettings], ranks: Ranks, on_image: Advance | None = None
    ) -> Iterator[tuple[list[int], list[Boxes]]]:
        """The boxes of the maps under each of the settings, whatever their score.

        A calibration and a least score among the settings do not count.

        Args:
            ranks: of the maps to look at.

        Yields:
            Some images, in turn, and for each of the settings their boxes, ascending by image,
            corners as shares, whose score is the mean of the map; class_score is NaN where a row
            does not tell it.
        """
        plain = [one.model_copy(update={"calibration": None, "min_score": 0.0}) for one in settings]
        cpus = usable_cpus()
        groups = list(grouped(range(len(self)), IMAGES_AT_ONCE))
        with ThreadPoolExecutor(cpus) as pool:
            done = in_order(pool, lambda group: self._found(group, plain, ranks), groups, 2 * cpus)
            for group, found in zip(groups, done, strict=True):
                yield group, found
                if on_image is not None:
                    for _ in group:
                        on_image(len(self))

    def _found(
        self, images: Sequence[int], settings: Sequence[BoxSettings], ranks: Ranks
    ) -> list[Boxes]:
        # They need a compiler, which whoever stores no maps need not wait for.
        from cambox.cams.boxes import find_boxes_by_shape
        from cambox.cams.score import MapClasses, choose_boxes

        rows = [self.rows[place] for place in images]
        stored = [one for row in rows for one in row.maps]
        rank = np.array([one.rank for one in stored], np.int64)
        looked_at = np.ones(len(rank), bool) if ranks is None else ranks(rank)
        # Boxes of better classes may suppress those of the ones that are looked at.
        suppressed = any(one.suppress_overlap is not None for one in settings)
        used = np.flatnonzero(looked_at | (suppressed & looked_at.any()))
        if not len(used):
            return [Boxes.of(()) for _ in settings]
        classes = MapClasses(
            image=np.repeat(images, [len(row.maps) for row in rows])[used],
            class_id=np.array([one.class_id for one in stored], np.int64)[used],
            rank=rank[used],
            score=np.array([score for row in rows for score in row.class_scores])[used],
        )
        maps = [stored[place].restore() for place in used]
        result = []
        for one in settings:
            found = find_boxes_by_shape(maps, self.geometry, one)
            chosen = choose_boxes(found, classes, one)
            result.append(chosen.boxes[looked_at[used][chosen.of_map]])
        return result


def read_rows(
    recipe: PublishedRecipe, truth: Truth, with_maps: bool = False, on_file: Advance | None = None
) -> MappedImages:
    """Read the rows whose images have true boxes; the others are only counted.

    Raises:
        RequestError: a file is damaged or of another make, or an image has two rows.
    """
    geometry = recipe.geometry
    rows: list[RowWithTruth] = []
    shard_of: dict[str, str] = {}
    other_unicode: list[str] = []
    total, first_key = 0, None
    keys = pa.array(truth.keys, pa.string())
    for batch in recipe.batches((*_COLUMNS, "maps") if with_maps else _COLUMNS, on_file):
        total += batch.num_rows
        if first_key is None and batch.num_rows:
            first_key = batch["key"][0].as_py()
        wanted = batch.filter(pc.is_in(spelled(batch["key"]), value_set=keys))
        every = boxes_from_arrow(wanted["objects"])
        for place, row in enumerate(wanted.drop_columns("objects").to_pylist()):
            name = truth.name_of(row["key"])
            assert name is not None
            if name in shard_of:
                raise RequestError(
                    f"--truth: {name!r} has a row of {shard_of[name]} and one of {row['shard']}; "
                    "give the samples keys of their own"
                )
            shard_of[name] = row["shard"]
            if is_normalized("NFC", name) != is_normalized("NFC", row["key"]):
                other_unicode.append(name)
            start, end = np.searchsorted(every.image, [place, place + 1])
            rows.append(_row(row, every[start:end], truth.images[name]))
    without_row = tuple(name for name in truth.images if name not in shard_of)
    return MappedImages(tuple(rows), geometry, total, without_row, tuple(other_unicode), first_key)


def _row(row: dict[str, Any], boxes: Boxes, true_boxes: Boxes) -> RowWithTruth:
    labels = tuple(dict.fromkeys(row["labels"] or ()))
    if labels and (true_boxes.class_id == UNKNOWN_CLASS).all():
        classes = np.repeat(sorted(labels), len(true_boxes))
        true_boxes = Boxes.joined([true_boxes] * len(labels)).with_columns(class_id=classes)
    scores = dict(zip(boxes.class_id.tolist(), boxes.class_score.tolist(), strict=True))
    scores |= {entry["class_id"]: entry["probability"] for entry in row["classes"]}
    maps = tuple(StoredMap(**entry) for entry in row.get("maps", ()))
    by_rank = sorted(row["classes"], key=lambda entry: entry["rank"])
    return RowWithTruth(
        key=row["key"],
        status=row["status"],
        size=None if row["width"] is None else (row["height"], row["width"]),
        labels=labels,
        predicted=tuple(entry["class_id"] for entry in by_rank),
        boxes=boxes,
        true_boxes=true_boxes[np.argsort(true_boxes.class_id, kind="stable")],
        maps=maps,
        class_scores=tuple(scores.get(one.class_id, float("nan")) for one in maps),
    )


def numbered(parts: Iterable[Boxes]) -> Boxes:
    """All boxes of all parts, ``image`` being the place of their part."""
    listed = list(parts)
    places = np.repeat(np.arange(len(listed)), [len(part) for part in listed])
    return Boxes.joined(listed).with_columns(image=places)


def pair_starts(true_boxes: Boxes) -> np.ndarray:
    """(p,) the place of the first true box of each image and class; they ascend by both."""
    return np.flatnonzero(place_in_group(true_boxes.image, true_boxes.class_id) == 0)


def pair_overlaps(true_boxes: Boxes, boxes: Boxes) -> np.ndarray:
    """(p,) for each image and class, the best IoU of its boxes with a true one; 0 for none."""
    return np.maximum.reduceat(best_overlaps(true_boxes, boxes), pair_starts(true_boxes))
