"""Some columns, or some rows, of a published file: only their bytes are asked of the storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from cambox.errors import RequestError
from cambox.output.folders import Folder
from cambox.output.footer import Footer

ROWS_AT_ONCE = 8192


def read_columns(
    filesystem: AbstractFileSystem, folder: Folder, path: str, columns: Sequence[str]
) -> tuple[Footer, Iterator[pa.RecordBatch]]:
    """The footer of a file, and its rows, some at a time.

    Args:
        columns: Parquet paths, such as ``status`` or ``objects.list.element.box_score``.

    Raises:
        RequestError: the file cannot be read, is damaged, or is not of cambox; also while the
            rows are read.
    """
    batches = _batches(filesystem, path, folder.uri_of(path), columns)
    footer = next(batches)
    assert isinstance(footer, Footer)
    return footer, batches  # type: ignore[return-value]


def read_rows(
    filesystem: AbstractFileSystem, folder: Folder, path: str, places: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """The rows at some places, 0 to n - 1, in the order of the file.

    Raises:
        RequestError: as ``read_columns``.
    """
    uri = folder.uri_of(path)
    wanted = np.unique(np.asarray(places, dtype=np.int64))
    with _damage(uri), filesystem.open(path, "rb") as stream:
        file = pq.ParquetFile(stream, pre_buffer=True, page_checksum_verification=True)
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            inside = wanted[(wanted >= first) & (wanted < first + count)] - first
            first += count
            if len(inside):
                # Some hundred rows at a time, because maps are large.
                yield from _taken(file.iter_batches(256, row_groups=[group]), inside)


def _taken(batches: Iterator[pa.RecordBatch], places: np.ndarray) -> Iterator[dict[str, Any]]:
    first = 0
    for batch in batches:
        inside = places[(places >= first) & (places < first + batch.num_rows)] - first
        first += batch.num_rows
        if len(inside):
            yield from batch.take(pa.array(inside)).to_pylist()


def _batches(
    filesystem: AbstractFileSystem, path: str, uri: str, columns: Sequence[str]
) -> Iterator[Footer | pa.RecordBatch]:
    with _damage(uri), filesystem.open(path, "rb") as stream:
        file = pq.ParquetFile(stream, pre_buffer=True, page_checksum_verification=True)
        try:
            yield Footer.from_metadata(file.metadata.metadata or {})
        except (KeyError, ValueError, TypeError) as error:
            raise RequestError(f"{uri} is not of this cambox; move it out of the folder") from error
        yield from file.iter_batches(ROWS_AT_ONCE, columns=list(columns))


@contextmanager
def _damage(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        # Arrow's word for bytes that do not parse is an OSError as well.
        raise RequestError(
            f"{uri} cannot be read ({' '.join(str(error).split())}); check access to it, and "
            "run cambox verify"
        ) from error
