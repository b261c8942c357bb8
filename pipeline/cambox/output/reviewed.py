"""Boxes that people have looked at: kept beside the recipes, and read in place of the pseudo boxes.

A reviewed row is of a picture: of a shard's URI, a key, and the SHA-256 of the image's file. Under
which states of its shard the picture was found to be that one, or another, is written down with it,
so that readers need not open a shard: a state that nobody has checked leaves the pseudo boxes.

    OUTPUT/_reviewed/rows          Parquet, of all recipes of the output
"""

from __future__ import annotations

import io
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cambox.errors import RequestError
from cambox.output.exchange import Seen, put, read_seen
from cambox.output.publish import MOST_ROUNDS, to_parquet
from cambox.output.rows import OBJECT_TYPE, as_numpy

LOG = logging.getLogger(__name__)

# No ending that a pattern of a reader of the recipes' files would match.
PLACE = "_reviewed/rows"
REVIEWED = "reviewed"
"""The column that says whether a person has settled all of a row; no file holds it."""
Options = Mapping[str, Any] | None
_OK = "ok"

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("shard", "key", "sha256")),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("complete", pa.bool_()),
        ("objects", pa.list_(OBJECT_TYPE)),
        ("same_in", pa.list_(pa.string())),
        ("other_in", pa.list_(pa.string())),
        ("source", pa.string()),
        ("reviewed_at", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(frozen=True)
class ReviewedRow:
    """What people say of one picture.

    Attributes:
        sha256: of the image's file, as it lies in the shard.
        width, height: of the upright image, in pixels.
        complete: every object is there and of its class; else a box was left unjudged, or an
            object's class is not known.
        objects: as in the column of that name; of a person's box class_score and box_score are 1,
            rank and component 0. Those left unjudged are as they were.
        same_in: fingerprints of the shard in which the key has this very picture.
        other_in: fingerprints in which it has another one, or none.
        source: the name of the file that says so.
    """

    shard: str
    key: str
    sha256: str
    width: int
    height: int
    complete: bool
    objects: tuple[Mapping[str, Any], ...]
    same_in: tuple[str, ...]
    source: str
    reviewed_at: datetime
    other_in: tuple[str, ...] = ()

    @property
    def picture(self) -> tuple[str, str, str]:
        """What it is kept under."""
        return self.shard, self.key, self.sha256

    def seen_in(self, fingerprint: str, same: bool) -> ReviewedRow:
        """The same, which knows of one more state of its shard."""
        if same:
            return replace(self, same_in=(*self.same_in, fingerprint))
        return replace(self, other_in=(*self.other_in, fingerprint))

    def knows(self, fingerprint: str) -> bool:
        """Whether this state of the shard was checked."""
        return fingerprint in (*self.same_in, *self.other_in)


def read_reviewed(root: str, storage_options: Options = None) -> tuple[ReviewedRow, ...]:
    """The reviewed rows of an output; none where nobody has reviewed anything.

    Args:
        root: URI of the output, the folder that holds the recipes' folders.

    Raises:
        RequestError: the file is damaged.
        OSError: the storage failed.
    """
    return _read(root, storage_options)[1]


def keep_reviewed(
    root: str,
    change: Callable[[tuple[ReviewedRow, ...]], Iterable[ReviewedRow]],
    storage_options: Options = None,
) -> None:
    """Write the reviewed rows of an output anew; of two who do so at once neither is lost.

    Args:
        change: from the rows that are there to those that shall be; asked again where somebody
            else was first.

    Raises:
        RequestError: the file that is there is damaged.
        OSError: the storage failed.
    """
    for _ in range(MOST_ROUNDS):
        seen, there = _read(root, storage_options)
        rows = sorted(change(there), key=lambda row: row.picture)
        if tuple(rows) == there:
            return
        table = pa.Table.from_pylist([vars(row) for row in rows], _SCHEMA)
        if put(seen, to_parquet(table), storage_options):
            return
    raise OSError(f"{root}/{PLACE}: others have written it {MOST_ROUNDS} times meanwhile")


def with_rows(there: Iterable[ReviewedRow], more: Iterable[ReviewedRow]) -> tuple[ReviewedRow, ...]:
    """Reviewed rows, and in place of those of the same pictures later ones."""
    rows = {row.picture: row for row in there}
    for row in more:
        before = rows.get(row.picture)
        if before is not None:
            row = replace(
                row,
                same_in=tuple(dict.fromkeys((*before.same_in, *row.same_in))),
                other_in=tuple(dict.fromkeys((*before.other_in, *row.other_in))),
            )
        rows[row.picture] = row
    return tuple(rows.values())


def _read(root: str, storage_options: Options) -> tuple[Seen, tuple[ReviewedRow, ...]]:
    uri = f"{root.rstrip('/')}/{PLACE}"
    seen, data = read_seen(uri, storage_options)
    if data is None:
        return seen, ()
    try:
        table = pq.read_table(io.BytesIO(data), schema=_SCHEMA, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(
            f"{uri} is damaged ({error}); restore it, or remove it and give the review files to "
            "cambox corrections again"
        ) from error
    rows = []
    for row in table.to_pylist():
        lists = {name: tuple(row[name]) for name in ("objects", "same_in", "other_in")}
        rows.append(ReviewedRow(**{**row, **lists}))
    return seen, tuple(rows)


@dataclass(frozen=True)
class FileReviews:
    """The reviewed rows of one published file, which are read in place of its own.

    Attributes:
        objects: of each, by key, with the recipe's class ids.
        complete: the keys of those that are, see ``ReviewedRow``.
    """

    objects: Mapping[str, Sequence[Mapping[str, Any]]]
    complete: frozenset[str]

    def over(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows with the boxes of those that are reviewed; ``key`` is among the columns.

        A reviewed row is ``ok`` also where its sample had no label.
        """
        keys = pa.array(list(self.objects), pa.string())
        places = np.flatnonzero(as_numpy(pc.is_in(batch["key"], value_set=keys)))
        if not len(places):
            return batch
        chosen = batch["key"].take(pa.array(places)).to_pylist()
        if "objects" in batch.schema.names:
            batch = _replaced(batch, "objects", places, [self.objects[key] for key in chosen])
        if "status" in batch.schema.names:
            batch = _replaced(batch, "status", places, [_OK] * len(places))
        return batch

    def flags(self, batch: pa.RecordBatch) -> pa.Array:
        """(n,) bool, which rows are completely reviewed; ``key`` is among the columns."""
        return pc.is_in(batch["key"], value_set=pa.array(sorted(self.complete), pa.string()))


def _replaced(
    batch: pa.RecordBatch, name: str, places: np.ndarray, values: Sequence[Any]
) -> pa.RecordBatch:
    """Rows with other values of a column at some places."""
    field = batch.schema.field(name)
    # Of fields that were not asked for the type has none, and the values then lose them.
    new = pa.array(values, field.type)
    order = np.arange(batch.num_rows)
    order[places] = batch.num_rows + np.arange(len(places))
    column = pa.concat_arrays([batch[name], new]).take(pa.array(order))
    return batch.set_column(batch.schema.get_field_index(name), field, column)


class Reviews:
    """The reviewed rows of an output, as its files ask for them; says once what was not taken."""

    def __init__(self, root: str, rows: Iterable[ReviewedRow]) -> None:
        self.root = root
        self.by_shard: Mapping[str, list[ReviewedRow]] = defaultdict(list)
        # The latest review of a picture counts, should two pictures of a key be in doubt.
        for row in sorted(rows, key=lambda row: row.reviewed_at):
            self.by_shard[row.shard].append(row)
        self.not_taken: Counter[str] = Counter()

    def of(self, shard: str, fingerprint: str, classes: Sequence[str]) -> FileReviews | None:
        """Those that count for a published file.

        Args:
            shard, fingerprint: that the file's rows are of.
            classes: of the recipe, by class id.
        """
        if shard not in self.by_shard:
            return None
        objects: dict[str, list[Mapping[str, Any]]] = {}
        complete = {}
        for row in self.by_shard[shard]:
            if not row.knows(fingerprint):
                self.not_taken["not checked since their shard has changed"] += 1
            elif fingerprint in row.same_in:
                numbered = [_numbered(one, classes) for one in row.objects]
                if None in numbered:
                    self.not_taken["of a class that this recipe does not have"] += 1
                else:
                    objects[row.key] = [one for one in numbered if one is not None]
                    complete[row.key] = row.complete
        settled = frozenset(key for key, whole in complete.items() if whole)
        return FileReviews(objects, settled) if objects else None

    def say_what_was_not_taken(self) -> None:
        """One line, where there was anything."""
        if self.not_taken:
            what = ", ".join(f"{count} {why}" for why, count in self.not_taken.items())
            LOG.warning(
                "%s: reviewed rows that are not taken, the pseudo boxes stay: %s; run cambox "
                "corrections --check %s",
                *(self.root, what, self.root),
            )


def _numbered(one: Mapping[str, Any], classes: Sequence[str]) -> Mapping[str, Any] | None:
    """A box with the class id that its class has in this recipe; None where it has none."""
    name, number = one["class_name"], one["class_id"]
    if number < len(classes) and classes[number] == name:
        return one
    if classes.count(name) != 1:
        return None
    return {**one, "class_id": classes.index(name)}
