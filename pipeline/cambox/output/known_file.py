"""Published files known by their ends: what a footer says, and that no other tool wrote it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from packaging.version import Version

from cambox.output.footer import (
    CANARY_KEY,
    DIGEST_KEY,
    SOURCE_KEY,
    FileEnd,
    Footer,
    NotOursError,
    parsed,
    read_end,
)
from cambox.output.parquet_bytes import readable
from cambox.output.published_file import PublishedFile
from cambox.sources.listing import list_folder
from cambox.sources.storage import locate

FOOTERS_AT_ONCE = 16
# Of a file without rows: empty dictionaries.
MOST_BYTES_WITHOUT_ROWS = 1000


def known_file(uri: str, storage_options: Mapping[str, Any] | None) -> tuple[PublishedFile, Footer]:
    """A file and its footer, from its end.

    Raises:
        RequestError: it cannot be read, is damaged, or is not of cambox.
    """
    with readable(uri):
        end = read_end(uri, storage_options)
    return published_file(uri, end, storage_options)


def published_file(
    uri: str, end: FileEnd, storage_options: Mapping[str, Any] | None = None
) -> tuple[PublishedFile, Footer]:
    """A file by its end.

    Raises:
        NotOursError: cambox did not make the file.
    """
    entries = end.metadata.metadata or {}
    with parsed(uri):
        footer = Footer.from_metadata(entries)
        _require_plausible(footer, end.metadata)
        digest = json.loads(entries.get(DIGEST_KEY, b"{}")).get("sha256")
        source = entries.get(SOURCE_KEY, b"").decode() or None
        # One text for all files of a worker, and an output of millions of rows has few.
        canary = sys.intern(entries.get(CANARY_KEY, b"").decode())
    file = PublishedFile(
        uri,
        footer.shard,
        end.metadata.num_rows,
        footer.recipe_digest,
        footer.versions,
        digest,
        source,
        storage_options,
        end.size,
        end.digest,
        canary=canary,
    )
    return file, footer


def names_in(folder_uri: str, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """The names of the visible files of a folder, of which nothing is read.

    Raises:
        OSError: the folder cannot be listed.
    """
    filesystem, path = locate(folder_uri, storage_options)
    # Another process may have published since this one looked.
    filesystem.invalidate_cache()
    try:
        entries = list_folder(filesystem, path)
    except FileNotFoundError:
        return []
    names = [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries]
    return [name for name in names if name.endswith(".parquet") and name[0] not in "._"]


def files_in(
    folder_uri: str,
    storage_options: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, PublishedFile | None]:
    """The visible files of a folder, by name; None for one that is not whole or not ours.

    Args:
        names: only of these, and of them those that are there, also where a listing is late; None:
            all.

    Raises:
        OSError: the folder cannot be listed, or a footer cannot be read.
    """
    if names is None:
        names = names_in(folder_uri, storage_options)

    def known(name: str) -> tuple[str, PublishedFile | None] | None:
        uri = f"{folder_uri}/{name}"
        try:
            return name, published_file(uri, read_end(uri, storage_options), storage_options)[0]
        except NotOursError:
            return name, None
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return dict(found for found in pool.map(known, names) if found is not None)


def _require_plausible(footer: Footer, metadata: pq.FileMetaData) -> None:
    """See that a footer says nothing that no file of ours says: a flipped bit still parses.

    Raises:
        TypeError, ValueError: an entry is of another kind, or no version.
        pa.ArrowInvalid: the numbers of rows contradict each other.
    """
    shard, versions = footer.shard, footer.versions
    texts = (shard.uri, shard.fingerprint, *footer.classes, *versions, *versions.values())
    if not (all(isinstance(text, str) for text in texts) and isinstance(shard.size, int)):
        raise TypeError("an entry is of the wrong type")
    if "cambox" not in versions:
        raise ValueError("no version of cambox")
    Version(versions["cambox"])
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if metadata.num_rows != sum(group.num_rows for group in groups):
        raise pa.ArrowInvalid("its footer contradicts itself in the number of rows")
    data = json.loads((metadata.metadata or {}).get(DIGEST_KEY, b"{}"))
    size = int(data.get("bytes", metadata.num_rows or MOST_BYTES_WITHOUT_ROWS + 1))
    if metadata.num_rows == 0 and size > MOST_BYTES_WITHOUT_ROWS:
        raise pa.ArrowInvalid("its footer counts no rows, and there are some before it")
