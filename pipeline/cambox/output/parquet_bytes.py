"""Which bytes of a Parquet file some of its columns are, and these bytes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cambox.errors import RequestError
from cambox.output.footer import parsed
from cambox.sources.retry import from_storage
from cambox.sources.storage import locate

# Asking once more costs a storage about as much time as so many bytes that nobody wants.
BYTES_NOT_WORTH_A_QUESTION = 1 << 15


def may_have(group: pq.RowGroupMetaData, column: str, value: str) -> bool:
    """Whether statistics allow a value in a column; both sort texts by their UTF-8 bytes."""
    for place in range(group.num_columns):
        chunk = group.column(place)
        if chunk.path_in_schema == column:
            known = chunk.statistics
            return known is None or not known.has_min_max or known.min <= value <= known.max
    return False


def ranges_of(
    metadata: pq.FileMetaData, columns: Sequence[str] | None, groups: Sequence[int]
) -> list[tuple[int, int]]:
    """Where the pages of some columns (None: of all) lie, first byte and end; neighbours as one."""
    ranges: list[tuple[int, int]] = []
    for group in groups:
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            path = f"{column.path_in_schema}."
            if columns is not None and not any(path.startswith(f"{name}.") for name in columns):
                continue
            start = column.dictionary_page_offset or column.data_page_offset
            end = start + column.total_compressed_size
            if not 0 <= start < end:
                raise pa.ArrowInvalid(f"{column.path_in_schema} is said to lie at byte {start}")
            if ranges and 0 <= start - ranges[-1][1] <= BYTES_NOT_WORTH_A_QUESTION:
                start = ranges.pop()[0]
            ranges.append((start, end))
    return ranges


def some_bytes(
    uri: str, ranges: Sequence[tuple[int, int]], storage_options: Mapping[str, Any] | None
) -> np.ndarray:
    """(size,) uint8 the file where it was asked for, zeros elsewhere, which take no memory.

    Raises:
        RequestError: it cannot be read, or ends before what is asked for.
    """
    filesystem, path = locate(uri, storage_options)
    starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
    with readable(uri):
        parts = from_storage(
            uri,
            lambda: filesystem.cat_ranges([path] * len(ranges), starts, ends, on_error="raise"),
        )
    with parsed(uri):
        for (start, end), part in zip(ranges, parts, strict=True):
            if len(part) != end - start:
                raise pa.ArrowInvalid(f"it ends before byte {end}")
    data = np.zeros(max(ends, default=0), np.uint8)
    for (start, end), part in zip(ranges, parts, strict=True):
        data[start:end] = np.frombuffer(part, np.uint8)
    return data


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """What a storage fails with, as the one line that a command ends with.

    Raises:
        RequestError: in place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise RequestError(f"{uri} cannot be read: {error}; check access to it") from error
