"""A published file known by its end: what its footer says, and that no other tool wrote it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
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
    parsed,
    read_end,
)
from cambox.output.parquet_bytes import readable
from cambox.output.published_file import PublishedFile

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
