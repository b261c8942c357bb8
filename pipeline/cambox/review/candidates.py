"""The images of an output that a person could review, and how much each is worth it.

A row's worth is its doubt, or how much another recipe disagrees with it, whichever is more.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from cambox.boxes import Boxes, best_overlaps
from cambox.output.published_file import PublishedFile
from cambox.output.reading import PublishedRecipe
from cambox.output.reviewed import REVIEWED
from cambox.output.rows import SIDES, Entries, as_numpy, boxes_from_arrow
from cambox.review.pictures import row_turns

NOTHING_FOUND = 0.75
"""The worth of an image with given labels and no box: less than that of an even guess."""
_OF_BOXES = tuple(f"objects.list.element.{name}" for name in ("class_id", "box_score", *SIDES))
_COLUMNS = ("key", "status", "width", "labels", "classes", *_OF_BOXES, REVIEWED)
_BESIDE = ("key", *_OF_BOXES)
# So many times what is wanted is kept to choose from, overall and of a class.
_POOL = 4
_LEAST_OF_A_CLASS = 8
_MOST_REVIEWED = 5000


@dataclass(frozen=True, order=True)
class Candidate:
    """A row that may be picked; they order by worth, then by the seed's turn.

    Attributes:
        class_id: of the box in question; -1 where there is none.
        classes: probabilities of the row's top-k classes.
    """

    worth: float
    turn: int
    file: int = field(compare=False)
    place: int = field(compare=False)
    key: str = field(compare=False)
    class_id: int = field(compare=False)
    why: str = field(compare=False)
    classes: Mapping[int, float] = field(compare=False)


class Pool:
    """The worthiest rows met so far, of each class and of all; and what else is known of all rows.

    Attributes:
        images: of each class, by class id; of rows that are not settled.
        reviewed: settled rows, some at most.
    """

    def __init__(self, recipe: PublishedRecipe, count: int) -> None:
        self.names = recipe.footer.classes
        self.calibrated = recipe.settings["boxes"].get("calibration") is not None
        self.images: Counter[int] = Counter()
        self.reviewed: list[Candidate] = []
        self._most = _POOL * count
        share = math.ceil(_POOL * count / max(len(self.names), 1))
        self._most_of_a_class = max(_LEAST_OF_A_CLASS, share)
        self._all: list[Candidate] = []
        self._of_class: dict[int, list[Candidate]] = defaultdict(list)

    def add(self, one: Candidate) -> None:
        """Keep a row if it is among the worthiest."""
        self.images[one.class_id] += 1
        for heap, most in (
            (self._all, self._most),
            (self._of_class[one.class_id], self._most_of_a_class),
        ):
            if len(heap) < most:
                heapq.heappush(heap, one)
            else:
                heapq.heappushpop(heap, one)

    def candidates(self) -> list[Candidate]:
        """The worthiest first."""
        every = [*self._all, *(one for heap in self._of_class.values() for one in heap)]
        return sorted({(one.file, one.place): one for one in every}.values(), reverse=True)


def candidates_of(
    pool: Pool,
    number: int,
    file: PublishedFile,
    other: PublishedFile | None,
    compared: bool,
    seed: int,
) -> Iterator[Candidate]:
    """The rows of a file that a person could review; the settled ones go to the pool's others."""
    turns = row_turns(seed, file.shard.uri, file.rows)
    boxes_beside = _boxes_by_key(other) if compared else None
    first = 0
    for batch in file.batches(_COLUMNS):
        boxes = boxes_from_arrow(batch["objects"])
        starts = np.searchsorted(boxes.image, np.arange(batch.num_rows + 1))
        classes = _top_classes(batch)
        columns = [batch[name].to_pylist() for name in ("key", "status", "width", "labels")]
        settled = as_numpy(batch[REVIEWED])
        for place, (key, status, width, labels) in enumerate(zip(*columns, strict=True)):
            if width is None or status != "ok":
                continue
            own = boxes[starts[place] : starts[place + 1]]
            worth, class_id, why = _worth(own, labels or (), pool)
            if boxes_beside is not None:
                differs = _disagreement(own, boxes_beside(key), pool.names)
                worth, class_id, why = max((worth, class_id, why), differs, key=lambda it: it[0])
            turn = int(turns[first + place])
            row = (number, first + place, key, class_id, why, classes[place])
            if not settled[place]:
                yield Candidate(worth, turn, *row)
            elif len(pool.reviewed) < _MOST_REVIEWED:
                pool.reviewed.append(Candidate(worth, turn, *row))
        first += batch.num_rows


def _top_classes(batch: pa.RecordBatch) -> list[dict[int, float]]:
    entries = Entries.of(batch["classes"], "classes")
    result: list[dict[int, float]] = [{} for _ in range(batch.num_rows)]
    fields = (entries.row, entries["class_id"], entries["probability"])
    for row, class_id, probability in zip(*(one.tolist() for one in fields), strict=True):
        result[row][class_id] = probability
    return result


def _worth(boxes: Boxes, labels: Sequence[int], pool: Pool) -> tuple[float, int, str]:
    """The doubt of a row, the class that it is about, and what it is, in words."""
    if not len(boxes):
        if labels:
            name = pool.names[labels[0]]
            return NOTHING_FOUND, labels[0], f"{name} is given, and no box was found"
        return 0.0, -1, "no box was found"
    doubt = 1 - np.abs(2 * boxes.score - 1)
    at = int(doubt.argmax())
    name, score = pool.names[boxes.class_id[at]], boxes.score[at]
    if pool.calibrated:
        why = f"its box of {name} is right with a probability of {score:.0%}"
    else:
        why = f"its box of {name} has a score of {score:.2f}"
    return float(doubt[at]), int(boxes.class_id[at]), why


def _boxes_by_key(file: PublishedFile | None) -> Callable[[str], Boxes | None]:
    """The boxes of another recipe's rows; None where it has no such row."""
    found: dict[str, Boxes] = {}
    for batch in file.batches(_BESIDE) if file is not None else ():
        boxes = boxes_from_arrow(batch["objects"])
        starts = np.searchsorted(boxes.image, np.arange(batch.num_rows + 1))
        for place, key in enumerate(batch["key"].to_pylist()):
            found[key] = boxes[starts[place] : starts[place + 1]]
    return found.get


def _disagreement(own: Boxes, other: Boxes | None, names: Sequence[str]) -> tuple[float, int, str]:
    """The mean of 1 - best IoU over the boxes of two recipes; and where they agree least."""
    if other is None or not (len(own) or len(other)):
        return 0.0, -1, ""
    one, two = (boxes.with_columns(image=np.zeros(len(boxes), np.int64)) for boxes in (own, other))
    overlaps = np.concatenate([best_overlaps(one, two), best_overlaps(two, one)])
    class_ids = np.concatenate([one.class_id, two.class_id])
    at = int(overlaps.argmin())
    class_id = int(class_ids[at])
    name = names[class_id] if class_id < len(names) else str(class_id)
    if overlaps[at] > 0:
        why = f"the recipes' boxes of {name} overlap by {overlaps[at]:.2f}"
    else:
        why = f"only {'this' if at < len(one) else 'the other'} recipe has this box of {name}"
    return float(1 - overlaps.mean()), class_id, why
