"""``cambox pick``: the images that are most worth a person's minute, and why.

Of the rows of each class that are worth most (``candidates``) some are taken in turn, the rarest
class first, and of these the ones that are least like what was reviewed or taken before. One seed
gives one pick.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cambox.console import Advance
from cambox.errors import RequestError
from cambox.output.publish import to_parquet
from cambox.output.reading import PublishedRecipe
from cambox.review.candidates import Candidate, Pool, candidates_of

SCHEMA = pa.schema(
    [("shard", pa.string()), ("key", pa.string()), ("reason", pa.string()), ("rank", pa.int32())]
)
_MOST_COLUMNS = 512


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
    pool = Pool(recipe, count)
    others = {file.shard.uri: file for file in beside.files} if beside is not None else None
    for number, file in enumerate(recipe.files):
        other = None if others is None else others.get(file.shard.uri)
        for candidate in candidates_of(pool, number, file, other, others is not None, seed):
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
    pool: Pool,
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
