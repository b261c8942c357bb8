"""``cambox pick``: the images that are most worth a person's minute, and why.

A row's worth is its doubt, or how much another recipe disagrees with it, whichever is more. Of the
worthiest rows of each class some are taken in turn, the rarest class first, and of these the ones
that are least like what was reviewed or taken before. One seed gives one pick.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from cambox.boxes import Boxes, best_overlaps
from cambox.console import Advance
from cambox.errors import RequestError
from cambox.output.publish import to_parquet
from cambox.output.published_file import PublishedFile
from cambox.output.reading import PublishedRecipe
from cambox.output.reviewed import REVIEWED
from cambox.output.rows import SIDES, Entries, as_numpy, boxes_from_arrow
from cambox.review.pictures import row_turns

NOTHING_FOUND = 0.75
"""The worth of an image with given labels and no box: less than that of an even guess."""
SCHEMA = pa.schema(
    [("shard", pa.string()), ("key", pa.string()), ("reason", pa.string()), ("rank", pa.int32())]
)
_OF_BOXES = tuple(f"objects.list.element.{name}" for name in ("class_id", "box_score", *SIDES))
_COLUMNS = ("key", "status", "width", "labels", "classes", *_OF_BOXES, REVIEWED)
_BESIDE = ("key", *_OF_BOXES)
# So many times what is wanted is kept to choose from, overall and of a class.
_POOL = 4
_LEAST_OF_A_CLASS = 8
_MOST_REVIEWED = 5000
_MOST_COLUMNS = 512


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


@dataclass(frozen=True)
class Pick:
    """A row that was picked; ``rank`` is from 1."""

    shard: str
    key: str
    reason: str
    rank: int
    class_id: int


def pick(
    recipe: PublishedRecipe,
    count: int,
    seed: int = 0,
    beside: PublishedRecipe | None = None,
    on_file: Advance | None = None,
) -> list[Pick]:
    """Choose rows; those that people have settled are left out.

    Two passes: over a few columns of all files, and over the features (where they are stored) of
    those that a candidate or a reviewed row is in. In memory are some candidates a class.

    Args:
        beside: another recipe over the same shards.

    Raises:
        RequestError: a file cannot be read, or there is no row to pick.
    """
    if beside is not None and beside.footer.classes != recipe.footer.classes:
        raise RequestError(
            f"--beside: {beside.uri} knows other classes than {recipe.uri}; name a recipe with the "
            "same ones"
        )
    pool = _Pool(recipe, count)
    others = {file.shard.uri: file for file in beside.files} if beside is not None else None
    for number, file in enumerate(recipe.files):
        other = None if others is None else others.get(file.shard.uri)
        for candidate in _candidates(pool, number, file, other, others is not None, seed):
            pool.add(candidate)
        if on_file is not None:
            on_file(len(recipe.files))
    candidates = pool.candidates()
    if not candidates:
        raise RequestError(f"{recipe.uri} has no row left that a person could review")
    vectors = _vectors(recipe, candidates, pool.reviewed)
    return _chosen(recipe, pool, candidates, vectors, count)


def pick_file(picks: Sequence[Pick]) -> bytes:
    """A pick as Parquet: shard, key, reason, rank."""
    rows = [{name: getattr(one, name) for name in SCHEMA.names} for one in picks]
    return to_parquet(pa.Table.from_pylist(rows, SCHEMA))


class _Pool:
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


def _candidates(
    pool: _Pool,
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


def _worth(boxes: Boxes, labels: Sequence[int], pool: _Pool) -> tuple[float, int, str]:
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


def _vectors(
    recipe: PublishedRecipe, candidates: Sequence[Candidate], reviewed: Sequence[Candidate]
) -> np.ndarray:
    """(candidates + reviewed, D) float32, of length 1: what images are compared by."""
    every = [*candidates, *reviewed]
    rows = None
    if recipe.settings["output"].get("store_features"):
        rows = _features(recipe, every)
    if rows is None:
        seen = Counter(class_id for one in every for class_id in one.classes)
        columns = {class_id: at for at, (class_id, _) in enumerate(seen.most_common(_MOST_COLUMNS))}
        rows = np.zeros((len(every), max(len(columns), 1)), np.float32)
        for number, one in enumerate(every):
            for class_id, probability in one.classes.items():
                if class_id in columns:
                    rows[number, columns[class_id]] = probability
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    vectors: np.ndarray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return vectors


def _features(recipe: PublishedRecipe, every: Sequence[Candidate]) -> np.ndarray | None:
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, one in enumerate(every):
        places[one.file].append((one.place, number))
    rows: np.ndarray | None = None
    for file, wanted in sorted(places.items()):
        first = 0
        for batch in recipe.files[file].batches(["key", "features"]):
            here = [(at - first, number) for at, number in wanted if 0 <= at - first < len(batch)]
            for at, number in here:
                values = batch["features"][at].values
                if values is None or not len(values):
                    continue
                if rows is None:
                    rows = np.zeros((len(every), len(values)), np.float32)
                rows[number] = values.to_numpy(zero_copy_only=False)
            first += batch.num_rows
    return rows


def _chosen(
    recipe: PublishedRecipe,
    pool: _Pool,
    candidates: Sequence[Candidate],
    vectors: np.ndarray,
    count: int,
) -> list[Pick]:
    """Some of each class in turn, by worth and by how little they are like those taken before."""
    of, known = vectors[: len(candidates)], vectors[len(candidates) :]
    # Of vectors of length 1 the distance, so that 1 is: nothing in common.
    distance = np.full(len(candidates), 1.0, np.float32)
    for one in known:
        np.minimum(distance, 1 - of @ one, out=distance)
    worth = np.array([one.worth for one in candidates])
    class_ids = np.array([one.class_id for one in candidates])
    free = np.ones(len(candidates), bool)
    rarest_first = sorted(set(class_ids.tolist()), key=lambda one: (pool.images[one], one))
    usual = sum(pool.images.values()) / len(pool.images)
    picks: list[Pick] = []
    while len(picks) < count and free.any():
        for class_id in rarest_first:
            mine = np.flatnonzero(free & (class_ids == class_id))
            if not len(mine) or len(picks) == count:
                continue
            novelty = np.clip(distance[mine], 0, 1)
            at = int(mine[np.argmax(worth[mine] * (1 + novelty) / 2)])
            one = candidates[at]
            reasons = [one.why]
            if class_id >= 0 and pool.images[class_id] < usual / 2:
                reasons.append(f"{pool.names[class_id]} is rare")
            if (len(known) or picks) and distance[at] > 0.5:
                reasons.append("unlike what was taken or reviewed before")
            shard = recipe.files[one.file].shard.uri
            picks.append(Pick(shard, one.key, "; ".join(reasons), len(picks) + 1, class_id))
            free[at] = False
            np.minimum(distance, 1 - of @ of[at], out=distance)
    return picks


def summary(picks: Sequence[Pick], names: Sequence[str]) -> dict[str, Any]:
    """How many of which class, for machines."""
    counts = Counter("no class" if one.class_id < 0 else names[one.class_id] for one in picks)
    return {"picked": len(picks), "by_class": dict(counts.most_common())}
