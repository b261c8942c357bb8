"""Pictures to look at first, found among an output's rows.

They are those with labels that a probe does not believe (``suspects.parquet``), or those that were
picked for a review (``pick.parquet``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cambox.errors import RequestError
from cambox.output.published_file import PublishedFile

_COLUMNS = ("shard", "key", "reason", "class_name", "likelier", "doubt")
_PICK_COLUMNS = ("shard", "key", "reason", "rank")
_DOUBTED = (
    "pictures with a label that the probe does not believe, though it never learned from it; the "
    "most doubted first"
)
_PICKED = "pictures that were picked for a review, with the reasons; the first to look at first"


@dataclass(frozen=True)
class Doubt:
    """One label of a picture that the held-out classifiers of a probe do not believe, or a pick.

    Attributes:
        reason: wrong label or missing label; of a pick, why it was picked.
        rank: 1 is looked at first.
        class_name: the doubted label; None where one is missing.
        likelier: the class that the picture seems to show; None where a label is only wrong.
        doubt: how strongly, 0 to 1; None of a pick.
    """

    reason: str
    rank: int
    class_name: str | None = None
    likelier: str | None = None
    doubt: float | None = None


@dataclass(frozen=True)
class Suspects:
    """The doubted labels of pictures, by the URI of their shard and their key.

    Pictures and the doubts of each are in the order of their rank.

    Attributes:
        called: what the pictures are, for the page.
        option: that named the file.
    """

    of_picture: Mapping[tuple[str, str], Sequence[Doubt]]
    called: str = _DOUBTED
    option: str = "--suspects"

    def of(self, shard_uri: str, key: str) -> list[dict[str, object]]:
        """The doubts of a picture as its page has them."""
        return [asdict(doubt) for doubt in self.of_picture.get((shard_uri, key), ())]

    def places(
        self, files: Sequence[PublishedFile], most: int, most_shards: int
    ) -> dict[str, list[int]]:
        """The places of the worst pictures' rows, by the URI of their file.

        Args:
            most: pictures.
            most_shards: that they come from.

        Raises:
            RequestError: no file has any of them.
        """
        of_shard = {file.shard.uri: file for file in files}
        keys: dict[str, list[str]] = {}
        left = most
        for shard_uri, key in self.of_picture:
            is_new = shard_uri not in keys
            if shard_uri in of_shard and left and not (is_new and len(keys) >= most_shards):
                keys.setdefault(shard_uri, []).append(key)
                left -= 1
        places = {}
        for shard_uri, some in keys.items():
            file = of_shard[shard_uri]
            rows = file.table(["key"])["key"].to_numpy()
            places[file.uri] = np.flatnonzero(np.isin(rows, some)).tolist()
        if self.of_picture and not any(places.values()):
            (shard_uri, key), *_ = self.of_picture
            raise RequestError(
                f"{self.option}: the output has none of its pictures, such as {key} of "
                f"{shard_uri}; give the output of the shards that it was made of"
            )
        return places


NO_SUSPECTS = Suspects({})


def read_suspects(path: Path) -> Suspects:
    """The suspects of ``cambox probe``, which stand in the order of their doubt.

    Raises:
        RequestError: the file cannot be read, or is another kind of file.
    """
    rows = _rows(path, _COLUMNS, "--suspects", "the suspects.parquet that cambox probe wrote")
    return Suspects(_by_picture({**row, "rank": at} for at, row in enumerate(rows, 1)))


def read_pick(path: Path) -> Suspects:
    """The pictures of ``cambox pick``.

    Raises:
        RequestError: as ``read_suspects``.
    """
    rows = _rows(path, _PICK_COLUMNS, "--pick", "the pick.parquet that cambox pick wrote")
    ranked = sorted(rows, key=lambda row: int(row["rank"]))
    return Suspects(_by_picture(ranked), _PICKED, "--pick")


def _rows(path: Path, columns: Sequence[str], option: str, what: str) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"{option}: {path} cannot be read: {error}") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise RequestError(f"{option}: {path} has no column {missing[0]}; give {what}")
    rows: list[dict[str, Any]] = table.select(columns).to_pylist()
    return rows


def _by_picture(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[Doubt]]:
    of_picture: defaultdict[tuple[str, str], list[Doubt]] = defaultdict(list)
    for row in rows:
        picture = row.pop("shard"), row.pop("key")
        of_picture[picture].append(Doubt(**row))
    return dict(of_picture)
