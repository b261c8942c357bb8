"""Finding and reading what is published: for commands that read one recipe's rows."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from cambox.errors import RequestError
from cambox.output.folders import Folder, recipe_folders
from cambox.output.footer import Footer
from cambox.output.ledger import FOOTERS_AT_ONCE, read_tail
from cambox.sources.retry import from_storage
from cambox.sources.shards import Shard
from cambox.sources.storage import canonical_uri, locate, storage_failures

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class PublishedFile:
    """One file of a recipe's folder: what is its own of its footer.

    Attributes:
        path: on the folder's file system.
        shard: that its rows are of.
    """

    path: str
    uri: str
    shard: Shard
    rows: int


def published_folders(
    uri: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[AbstractFileSystem, list[Folder]]:
    """The recipes' folders of an output, or the one that the URI names.

    Raises:
        RequestError: there is no such output, or it cannot be listed.
    """
    filesystem, path = locate(uri, storage_options)
    filesystem.invalidate_cache()
    if isinstance(filesystem, LocalFileSystem):
        # `latest` is a link; the folder's own name says which recipe should be in it.
        path = os.path.realpath(path)
    try:
        with storage_failures(uri):
            folders = recipe_folders(filesystem, path.rstrip("/"), canonical_uri(uri).rstrip("/"))
    except FileNotFoundError as error:
        raise RequestError(f"{uri} does not exist; name an output, or a recipe's folder") from error
    except NotADirectoryError as error:
        raise RequestError(f"{uri} is a file; name the folder that holds it") from error
    except OSError as error:
        raise RequestError(f"{uri} cannot be listed: {error}") from error
    if not folders:
        raise RequestError(f"{uri} holds nothing of cambox; name an output, or a recipe's folder")
    return filesystem, folders


def published_recipe(
    uri: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[AbstractFileSystem, Folder]:
    """The one recipe's folder that a URI names, or that its output holds.

    Raises:
        RequestError: as ``published_folders``; or the output holds several recipes, or no rows.
    """
    filesystem, folders = published_folders(uri, storage_options)
    full = [folder for folder in folders if folder.parquet]
    if not full:
        raise RequestError(f"{uri} holds no published file; run cambox annotate first")
    if len(full) > 1:
        names = ", ".join(folder.uri for folder in full)
        raise RequestError(f"{uri} holds {len(full)} recipes; name one of them: {names}")
    return filesystem, full[0]


def recipe_footer(filesystem: AbstractFileSystem, folder: Folder) -> Footer:
    """The footer of the folder's first file: its recipe is that of all of them.

    Raises:
        RequestError: the file is damaged, or not of cambox.
    """
    path = folder.parquet[0]
    return _open(filesystem, path, folder.uri_of(path))[0]


def published_files(
    filesystem: AbstractFileSystem, folder: Folder
) -> tuple[Footer, list[PublishedFile]]:
    """The files of a folder, sorted by path, and the footer of the first, whose recipe is theirs.

    Only footers are read.

    Raises:
        RequestError: a file is damaged, not of cambox, or of another recipe than the first.
    """
    first = recipe_footer(filesystem, folder)

    def read(path: str) -> PublishedFile:
        uri = folder.uri_of(path)
        tail = _stored(uri, lambda: read_tail(filesystem, path))
        with _of_cambox(uri):
            metadata = pq.read_metadata(pa.BufferReader(tail))
            footer = Footer.from_metadata(metadata.metadata or {})
        _require_recipe(footer, uri, first, folder.uri_of(folder.parquet[0]))
        return PublishedFile(path, uri, footer.shard, metadata.num_rows)

    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return first, list(pool.map(read, folder.parquet))


def read_file(
    filesystem: AbstractFileSystem, file: PublishedFile, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The rows of one file, some at a time.

    Args:
        columns: those that the file does not have are left out (``maps``).

    Raises:
        RequestError: the file is damaged, or not of cambox.
    """
    yield from _batches(_open(filesystem, file.path, file.uri)[1], file.uri, columns)


def read_published(
    filesystem: AbstractFileSystem,
    folder: Folder,
    columns: Sequence[str],
    on_file: Callable[[], None] | None = None,
) -> Iterator[tuple[Footer, pa.RecordBatch]]:
    """The rows of a recipe, some at a time; one file is in memory.

    Args:
        columns: those that a file does not have are left out (``maps``).
        on_file: called after each file.

    Raises:
        RequestError: a file is damaged, not of cambox, or of another recipe than the first.
    """
    first: Footer | None = None
    for path in folder.parquet:
        uri = folder.uri_of(path)
        footer, file = _open(filesystem, path, uri)
        first = first or footer
        _require_recipe(footer, uri, first, folder.uri_of(folder.parquet[0]))
        for batch in _batches(file, uri, columns):
            yield footer, batch
        if on_file is not None:
            on_file()


def _require_recipe(footer: Footer, uri: str, first: Footer, first_uri: str) -> None:
    if footer.recipe_digest != first.recipe_digest:
        raise RequestError(
            f"{uri} is of another recipe than {first_uri}; run cambox verify, and move one of "
            "them away"
        )


def _batches(file: pq.ParquetFile, uri: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    present = [name for name in columns if name in file.schema_arrow.names]
    try:
        yield from file.iter_batches(ROWS_AT_ONCE, columns=present)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(uri, error) from error


def _open(filesystem: AbstractFileSystem, path: str, uri: str) -> tuple[Footer, pq.ParquetFile]:
    data = _stored(uri, lambda: filesystem.cat_file(path))
    with _of_cambox(uri):
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        return Footer.from_metadata(file.metadata.metadata or {}), file


def _stored(uri: str, read: Callable[[], bytes]) -> bytes:
    try:
        return from_storage(uri, read)
    except OSError as error:
        raise RequestError(f"{uri} cannot be read: {error}; check access to it") from error


@contextmanager
def _of_cambox(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise _damaged(uri, error) from error
    except (KeyError, ValueError, TypeError) as error:
        raise RequestError(f"{uri} is not of this cambox; move it out of the folder") from error


def _damaged(uri: str, error: Exception) -> RequestError:
    text = " ".join(str(error).split())
    return RequestError(f"{uri} is damaged ({text}); delete it and run cambox annotate again")
