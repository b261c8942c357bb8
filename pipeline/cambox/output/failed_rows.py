"""Rows of a published file that are made again: those of some statuses, such as ``unreadable``."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cambox.config import OutputSettings
from cambox.errors import RequestError, ShardError
from cambox.output.footer import (
    CANARY_KEY,
    FORWARD_KEY,
    RETRIED_KEY,
    VERSIONS_KEY,
    NotOursError,
    Recipe,
    damaged,
    end_of,
    library_versions,
    parsed,
    read_end,
)
from cambox.output.known_file import published_file
from cambox.output.publish import file_name, is_intact, publish, recipe_uri
from cambox.output.published_file import PublishedFile
from cambox.output.rows import as_numpy
from cambox.sources.retry import read_whole
from cambox.sources.shards import Shard


@dataclass(frozen=True)
class FailedRows:
    """A published file, of which some rows are made again and the others stay as they are.

    Attributes:
        file: the bytes that were read.
        entries: of its footer.
        rows: all of them, with all columns.
        places: of those that are made again, by the index of their sample.
    """

    file: PublishedFile
    entries: Mapping[bytes, bytes]
    rows: pa.Table
    places: Mapping[int, int]

    @classmethod
    def of(
        cls, shard: Shard, recipe: Recipe, output: OutputSettings, statuses: frozenset[str]
    ) -> FailedRows:
        """Read a shard's file.

        Raises:
            ShardError: it is damaged, or not of this shard and recipe any more.
            OSError: the storage failed, or has no such file.
        """
        uri = f"{recipe_uri(output, recipe)}/{file_name(shard.uri)}"
        data = read_whole(uri, output.storage_options)
        try:
            end = end_of(uri, io.BytesIO(data))
            file, _ = published_file(uri, end, output.storage_options)
            entries = end.metadata.metadata
            with parsed(uri):
                whole = is_intact(data, entries)
                rows = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read()
            if not whole:
                raise damaged(uri, "the bytes before the footer are not those that were written")
        except RequestError as error:
            raise ShardError(str(error)) from error
        if file.shard != shard or file.recipe_digest != recipe.digest:
            raise ShardError(f"{uri}: another run has replaced it; run the same command again")
        asked_for = pc.is_in(rows["status"], pa.array(sorted(statuses), pa.string()))
        places = np.flatnonzero(as_numpy(asked_for)).tolist()
        indices = rows["sample_index"].take(pa.array(places, pa.int64())).to_pylist()
        return cls(file, entries, rows, dict(zip(indices, places, strict=True)))

    def publish(
        self,
        shard: Shard,
        made: pa.Table,
        recipe: Recipe,
        output: OutputSettings,
        still: Callable[[], bool],
    ) -> list[tuple[str, str]]:
        """Replace those rows whose status is another now; where there is none, nothing is written.

        What the file says of versions and of the built-in pictures stays that of its other rows.

        Args:
            shard: as it was read.
            made: all rows that were to be made again, with all columns, in the order of the shard.
            still: whether the shard is what they were made of.

        Returns:
            The status of each of them in the file, and as it is now.

        Raises:
            ShardError: the shard has changed, or another run has replaced the file meanwhile; or
                they are not the samples of the file's rows.
            OSError: the storage failed.
        """
        if shard != self.file.shard:
            raise ShardError(f"{shard.uri} has changed since it was annotated; annotate it again")
        places = list(self.places.values())
        old = self.rows.select(["key", "status"]).take(pa.array(places, pa.int64()))
        if made["key"].to_pylist() != old["key"].to_pylist():
            raise ShardError(
                f"{self.file.uri}: its rows are not the samples of {shard.uri}; run cambox verify "
                "--against-input, delete what is wrong and annotate again"
            )
        changes = list(zip(old["status"].to_pylist(), made["status"].to_pylist(), strict=True))
        parts, first = [], 0
        # Slices, as Arrow cannot take rows out of more than 2 GB of maps.
        for at, (place, (before, now)) in enumerate(zip(places, changes, strict=True)):
            if before != now:
                parts += [self.rows.slice(first, place - first), made.slice(at, 1)]
                first = place + 1
        if parts:
            rows = pa.concat_tables([*parts, self.rows.slice(first)])
            more = self._entries(Counter(before for before, now in changes if before != now))
            publish(rows, shard, recipe, output, lambda: still() and self._is_there(), more)
        return changes

    def _entries(self, written: Counter[str]) -> dict[bytes, bytes]:
        """Of the footer, beside those of every file; rows written by their earlier status."""
        kept = {
            key: self.entries[key]
            for key in (VERSIONS_KEY, CANARY_KEY, FORWARD_KEY)
            if key in self.entries
        }
        retried = {"rows": written, "versions": dict(library_versions())}
        return {**kept, RETRIED_KEY: json.dumps(retried).encode()}

    def _is_there(self) -> bool:
        """Whether the file still is what was read; another run may have retried other rows."""
        try:
            end = read_end(self.file.uri, self.file.storage_options)
        except (NotOursError, FileNotFoundError):
            return False
        return end.digest == self.file.footer_digest
