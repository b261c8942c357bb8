"""Labels that a probe does not believe (``suspects.parquet``), found among an output's rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cambox.errors import RequestError
from cambox.output.published_file import PublishedFile

_COLUMNS = ("shard", "key", "reason", "class_name", "likelier", "doubt")


@dataclass(frozen=True)
class Doubt:
    """One label of a picture that the held-out classifiers of a probe do not believe.

    Attributes:
        reason: wrong label or missing label.
        class_name: the doubted label; None where one is missing.
        likelier: the class that the picture seems to show; None where a label is only wrong.
        doubt: how strongly, 0 to 1.
    """

    reason: str
    class_name: str | None
    likelier: str | None
    doubt: float


@dataclass(frozen=True)
class Suspects:
    """The doubted labels of pictures, by the URI of their shard and their key.

    Pictures and the doubts of each are in the order of the file, the worst first.
    """

    of_picture: Mapping[tuple[str, str], Sequence[Doubt]]

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
                f"--suspects: the output has none of its pictures, such as {key} of {shard_uri}; "
                f"give the output of the shards that the probe learned from"
            )
        return places


NO_SUSPECTS = Suspects({})


def read_suspects(path: Path) -> Suspects:
    """The suspects of ``cambox probe``.

    Raises:
        RequestError: the file cannot be read, or is another kind of file.
    """
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"--suspects: {path} cannot be read: {error}") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise RequestError(
            f"--suspects: {path} has no column {missing[0]}; give the suspects.parquet that "
            f"cambox probe wrote"
        )
    of_picture: dict[tuple[str, str], list[Doubt]] = defaultdict(list)
    for row in table.select(_COLUMNS).to_pylist():
        picture = row.pop("shard"), row.pop("key")
        of_picture[picture].append(Doubt(**row))
    return Suspects(dict(of_picture))
