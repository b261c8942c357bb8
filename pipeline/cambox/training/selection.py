"""Which images and boxes of an output are taken for training, and how classes are numbered."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cambox.errors import RequestError
from cambox.sources.decode import SampleStatus
from cambox.sources.retry import read_whole


@dataclass(frozen=True)
class Selection:
    """A filter of images and boxes; the same for the datasets and for ``cambox export``.

    Attributes:
        min_score: boxes with a lower ``box_score`` are left out, 0 to 1.
        max_rank: boxes of predicted classes with a higher rank are left out; those of given
            labels (rank 0) stay. None: all ranks.
        only_labels: only boxes of given labels.
        classes: only these of the recipe's classes, numbered in this order; None: all.
        max_component: of each class of an image the boxes 0 to this one; None: all.
        keep_empty: also images without a box that is left; a detector learns from them that
            there is nothing, which is wrong where the box was only not found. What people have
            reviewed and found empty is taken anyway.
        statuses: of the images that are taken; all others have no boxes anyway. Images of unknown
            size are never taken.
        pick: the URI of a file of ``cambox pick``: only its images, also those without a box.
    """

    min_score: float = 0.0
    max_rank: int | None = None
    only_labels: bool = False
    classes: tuple[int, ...] | None = None
    max_component: int | None = None
    keep_empty: bool = False
    statuses: tuple[str, ...] = (SampleStatus.ok,)
    pick: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise RequestError(f"min_score: {self.min_score} is not within 0 and 1")
        if self.max_rank is not None and self.max_rank < 0:
            raise RequestError(f"max_rank: {self.max_rank} is below 0, the rank of given labels")
        if self.max_component is not None and self.max_component < 0:
            raise RequestError(f"max_component: {self.max_component} is below 0, the first box")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise RequestError(f"classes: {self.classes} names a class twice; name each once")
        for status in self.statuses:
            if status not in list(SampleStatus):
                raise RequestError(
                    f"statuses: {status!r} is unknown; known are {', '.join(SampleStatus)}"
                )


@dataclass(frozen=True)
class ClassList:
    """The classes of a training set, in the order of their numbers.

    The place in this list, from 0, is the class of YOLO and of Hugging Face; torchvision and COCO
    count from 1. With all of a recipe's classes the place is ``class_id``.

    Attributes:
        ids: ``class_id`` of each.
        names: each once: a name that several of the recipe's classes have is followed by the
            ``class_id``, as in ``crane (134)``.
        recipe_count: the number of the recipe's classes.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    recipe_count: int

    @classmethod
    def of(cls, recipe_names: Sequence[str], ids: Sequence[int] | None) -> ClassList:
        """The classes with these ids, in this order; None: all of the recipe.

        Raises:
            RequestError: the recipe has no such class.
        """
        chosen = range(len(recipe_names)) if ids is None else ids
        for class_id in chosen:
            if not 0 <= class_id < len(recipe_names):
                raise RequestError(
                    f"classes: {class_id} is none of the recipe's classes, 0 to "
                    f"{len(recipe_names) - 1}"
                )
        count = Counter(recipe_names)
        names = tuple(
            f"{name} ({class_id})" if count[name := recipe_names[class_id]] > 1 else name
            for class_id in chosen
        )
        return cls(tuple(chosen), names, len(recipe_names))

    def places(self) -> np.ndarray:
        """(recipe_count,) int64 the place of each of the recipe's classes; -1: not in the list."""
        places = np.full(self.recipe_count, -1, np.int64)
        places[list(self.ids)] = np.arange(len(self.ids))
        return places


def class_ids(text: str) -> tuple[int, ...]:
    """Class ids from a text such as ``3,7``.

    Raises:
        RequestError: it is no list of whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(f"classes: {text!r} is no list of class ids, such as 3,7") from error


def read_pick(uri: str) -> dict[str, frozenset[str]]:
    """The keys that a pick names, by shard.

    Raises:
        RequestError: it cannot be read, or is no pick.
    """
    try:
        table = pq.read_table(io.BytesIO(read_whole(uri)), columns=["shard", "key"])
        pairs = zip(*(table[name].to_pylist() for name in ("shard", "key")), strict=True)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise RequestError(
            f"--pick: {uri} cannot be read: {error}; give a file that cambox pick has written"
        ) from error
    keys = defaultdict(list)
    for shard, key in pairs:
        keys[shard].append(key)
    return {shard: frozenset(own) for shard, own in keys.items()}


def share_of(key: str) -> float:
    """A number from 0 to below 1 that is evenly spread over keys, and always the same of one.

    What is below the share that is held out for validation stays there as new images come.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=6).digest()
    return int.from_bytes(digest) / (1 << 8 * len(digest))
