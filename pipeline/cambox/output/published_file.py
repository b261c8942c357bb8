"""One published file: its rows, of which the columns asked for are read and no other bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cambox.errors import RequestError
from cambox.output.footer import NotOursError, parsed, read_end
from cambox.output.parquet_bytes import may_have, ranges_of, readable, some_bytes
from cambox.output.publish import replaced_uri
from cambox.output.reviewed import REVIEWED, FileReviews
from cambox.sources.retry import read_whole
from cambox.sources.shards import Shard

Answer = TypeVar("Answer")

ROWS_AT_ONCE = 4096
# Maps are large, and of a sample few rows of a file are wanted.
ROWS_WITH_MAPS_AT_ONCE = 256


@dataclass(frozen=True)
class PublishedFile:
    """One published file, known by its footer; no file is open, so it may be pickled.

    Attributes:
        shard: that its rows are of.
        rows: their number.
        recipe_digest: of the recipe that made them.
        versions: of cambox and the libraries that made them.
        data_digest: SHA-256 of the bytes before the footer; None where the footer has none.
        canary: what the worker that made them made of the built-in pictures, as JSON; empty where
            the file does not say.
        source: what the file was made from, where another file's maps gave its boxes.
        storage_options: of the output, passed to fsspec.
        size: in bytes.
        footer_digest: see ``FileEnd.digest``.
        sha256: of the whole file, where a manifest names it: then these bytes are read, also once
            another file has its name.
        reviews: rows that people have reviewed, whose boxes are read in place of the file's.
    """

    uri: str
    shard: Shard
    rows: int
    recipe_digest: str
    versions: Mapping[str, str]
    data_digest: str | None
    source: str | None
    storage_options: Mapping[str, Any] | None = None
    size: int = 0
    footer_digest: str = ""
    sha256: str | None = None
    canary: str = ""
    reviews: FileReviews | None = None

    @property
    def name(self) -> str:
        """The last part of its URI, a function of the shard's."""
        return self.uri.rsplit("/", 1)[-1]

    def batches(
        self, columns: Sequence[str], rows_at_once: int = ROWS_AT_ONCE
    ) -> Iterator[pa.RecordBatch]:
        """The rows, some at a time; only the bytes of these columns are asked of the storage.

        Args:
            columns: Parquet paths, such as ``status`` or ``objects.list.element.box_score``; those
                that the file does not have are left out (``maps``). ``reviewed`` says whose boxes
                are a person's.

        Raises:
            RequestError: the file cannot be read, or is damaged.
        """
        yield from self._batches(list(columns), rows_at_once, None)

    def whole_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows with all their columns and ``reviewed``, some at a time; see ``batches``.

        For whoever is called by Arrow: it waits for no thread of Arrow's, all of which may be
        waiting for it.
        """
        yield from self._batches(None, ROWS_AT_ONCE, None, use_threads=False)

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows in one piece; see ``batches``."""
        batches = list(self.batches(columns))
        if batches:
            return pa.Table.from_batches(batches).combine_chunks()
        return self._metadata().schema.to_arrow_schema().empty_table().select(list(columns))

    def rows_at(self, places: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The rows at some places, 0 to n - 1, in the order of the file, with all columns.

        Among them is ``reviewed``.

        Raises:
            RequestError: as ``batches``.
        """
        wanted = np.unique(np.asarray(places, dtype=np.int64))
        metadata = self._metadata()
        end = 0
        for number in range(metadata.num_row_groups):
            first, end = end, end + metadata.row_group(number).num_rows
            if not ((wanted >= first) & (wanted < end)).any():
                continue
            for batch in self._batches(None, ROWS_WITH_MAPS_AT_ONCE, [number]):
                here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)] - first
                first += batch.num_rows
                if len(here):
                    yield from batch.take(pa.array(here)).to_pylist()

    def places_of(self, column: str, value: str) -> list[int]:
        """The places of the rows that have a value in a column of texts.

        Only that column is read, and only of row groups whose statistics allow the value.

        Raises:
            RequestError: as ``batches``.
        """
        metadata = self._metadata()
        places: list[int] = []
        end = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            first, end = end, end + group.num_rows
            if not may_have(group, column, value):
                continue
            for batch in self._batches([column], ROWS_AT_ONCE, [number]):
                equal = pc.equal(batch[column], value).fill_null(False)
                found = np.flatnonzero(equal.to_numpy(zero_copy_only=False))
                places += (first + found).tolist()
                first += batch.num_rows
        return places

    def whole(self) -> bytes:
        """All of its bytes.

        Raises:
            RequestError: it cannot be read.
        """

        def read(uri: str) -> bytes:
            with readable(uri):
                return read_whole(uri, self.storage_options)

        return self._of_these_bytes(read)

    def _metadata(self) -> pq.FileMetaData:
        return self._of_these_bytes(self._metadata_at)

    def _metadata_at(self, uri: str) -> pq.FileMetaData:
        with readable(uri):
            return read_end(uri, self.storage_options).metadata

    def _of_these_bytes(self, read: Callable[[str], Answer]) -> Answer:
        """What reading gives, of the bytes that the manifest names where one does."""
        if self.sha256 is None:
            return read(self.uri)
        if self._is_in_its_place():
            try:
                answer = read(self.uri)
            except RequestError:
                if self._is_in_its_place():
                    raise
            else:
                # Otherwise it may be of two files: of the one before, and of the one now.
                if self._is_in_its_place():
                    return answer
        return read(replaced_uri(self.uri, self.sha256))

    def _is_in_its_place(self) -> bool:
        with readable(self.uri):
            try:
                return read_end(self.uri, self.storage_options).digest == self.footer_digest
            except (NotOursError, FileNotFoundError):
                return False

    def _batches(
        self,
        columns: list[str] | None,
        rows_at_once: int,
        groups: list[int] | None,
        use_threads: bool = True,
    ) -> Iterator[pa.RecordBatch]:
        flagged = columns is None or REVIEWED in columns
        if columns is None or (self.reviews is None and not flagged):
            read = columns
        else:
            # Reviewed rows are told by their keys; and of no column at all there are no rows.
            read = list(dict.fromkeys(("key", *(name for name in columns if name != REVIEWED))))
        for batch in self._stored_batches(read, rows_at_once, groups, use_threads):
            reviewed: pa.Array = pa.repeat(pa.scalar(False), batch.num_rows)
            if self.reviews is not None:
                reviewed = self.reviews.flags(batch)
                batch = self.reviews.over(batch)
            if columns is not None and "key" not in columns and read is not columns:
                batch = batch.drop_columns("key")
            yield batch.append_column(REVIEWED, reviewed) if flagged else batch

    def _stored_batches(
        self,
        columns: list[str] | None,
        rows_at_once: int,
        groups: list[int] | None,
        use_threads: bool = True,
    ) -> Iterator[pa.RecordBatch]:

        def read(uri: str) -> tuple[pq.FileMetaData, list[int], list[str] | None, np.ndarray]:
            metadata = self._metadata_at(uri)
            chosen = list(range(metadata.num_row_groups)) if groups is None else groups
            present = columns
            with parsed(self.uri):
                if columns is not None:
                    names = metadata.schema.to_arrow_schema().names
                    present = [name for name in columns if name.split(".")[0] in names]
                ranges = ranges_of(metadata, present, chosen)
            return metadata, chosen, present, some_bytes(uri, ranges, self.storage_options)

        # All bytes that will be read come now, so that a storage's failure is met here alone.
        metadata, chosen, present, data = self._of_these_bytes(read)
        with parsed(self.uri):
            file = pq.ParquetFile(
                pa.BufferReader(data), metadata=metadata, page_checksum_verification=True
            )
            yield from file.iter_batches(rows_at_once, chosen, present, use_threads)
