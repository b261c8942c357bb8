"""Publishing: a file is visible whole, or not at all; and it can tell later whether it still is."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from cambox.config import OutputSettings
from cambox.errors import RequestError, ShardError
from cambox.output.exchange import put, read_seen
from cambox.output.footer import DIGEST_KEY, Footer, NotOursError, Recipe, parsed
from cambox.output.whole import MOST_NAME_BYTES, make_folder, publish_bytes
from cambox.sources.retry import StorageError, can_pass
from cambox.sources.shards import Shard
from cambox.sources.storage import locate, storage_failures

RUNS = "_runs"
"""Beside the recipes' folders: what runs leave for people, and for readers of what was."""
ROW_GROUP_ROWS = 10_000
# Each means that another publisher of the same shard has just come first.
MOST_ROUNDS = 10
# Publishing takes seconds. What is a day old has no live owner, on this machine or another.
SECONDS_UNTIL_ABANDONED = 24 * 3600.0
# One name for all, so that at most one is left where nothing may be deleted.
_PROBE = f"_writable-{16 * '0'}.parquet.probe"
_TEMPORARY = re.compile(r"[._].+-[0-9a-f]{16}\.parquet\..+")


def file_name(shard_uri: str) -> str:
    """The name of a shard's file: readable, and a function of the shard's URI alone.

    Of a name that is too long for a file system the end is left out; the digest tells it apart.
    """
    name = PurePosixPath(shard_uri).name
    stem = name.split(".tar")[0].removesuffix(".tgz").lstrip("._") or "shard"
    ending = f"-{hashlib.sha256(shard_uri.encode()).hexdigest()[:16]}.parquet"
    room = MOST_NAME_BYTES - len(ending)
    return f"{stem.encode()[:room].decode(errors='ignore')}{ending}"


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that publishing writes under before the file is whole."""
    # What tried whether the folder can be written may stay for good, and is nobody's rows.
    return name != _PROBE and _TEMPORARY.fullmatch(name) is not None


def recipe_uri(output: OutputSettings, recipe: Recipe) -> str:
    """The folder of a recipe's files."""
    return f"{output.uri.rstrip('/')}/{recipe.folder}"


def replaced_uri(file_uri: str, sha256: str) -> str:
    """Where the bytes of a file are once another has taken its name, for manifests that name them.

    Beside the recipes' folders, and with no ending that a reader's pattern would match.
    """
    root, recipe, _ = file_uri.rsplit("/", 2)
    return f"{root}/{RUNS}/{recipe}/replaced/{sha256}"


def publish(
    rows: pa.Table,
    shard: Shard,
    recipe: Recipe,
    output: OutputSettings,
    still: Callable[[], bool] = lambda: True,
    more: Mapping[bytes, bytes] | None = None,
) -> str:
    """Write the one file of a shard and make it visible at once.

    A file that is there is replaced only if the shard still is what the rows were made of, and only
    if nobody else replaces it meanwhile; its bytes are kept at ``replaced_uri`` first.

    Args:
        rows: with the columns of ``rows.schema``.
        still: whether the shard is what the rows were made of; asked before another file of it is
            replaced.
        more: entries of the footer beside ``Footer``'s.

    Returns:
        The file's URI.

    Raises:
        ShardError: the shard has changed, and what is there may be newer; it stays.
        OSError: the storage failed; see ``publish_bytes`` for what is visible then.
    """
    metadata = {**Footer.metadata_of(recipe, shard), **(more or {})}
    uri = f"{recipe_uri(output, recipe)}/{file_name(shard.uri)}"
    data = to_parquet(rows.replace_schema_metadata(metadata))
    for _ in range(MOST_ROUNDS):
        # The order matters: what was there before the shard was found unchanged is not newer.
        seen, there = read_seen(uri, output.storage_options)
        if there == data:
            return uri
        if there is not None:
            if not still():
                raise ShardError(
                    "it has changed since it was read, and another run has published it; run the "
                    "same command again"
                )
            if _is_ours(uri, there):
                kept = replaced_uri(uri, hashlib.sha256(there).hexdigest())
                publish_bytes(kept, there, output.storage_options)
        if put(seen, data, output.storage_options):
            return uri
    raise OSError(f"{uri}: others have replaced it {MOST_ROUNDS} times while it was published")


def _is_ours(uri: str, data: bytes) -> bool:
    """Whether bytes are a file that a manifest may name."""
    try:
        with parsed(uri):
            Footer.from_metadata(pq.read_metadata(pa.BufferReader(data)).metadata or {})
    except NotOursError:
        return False
    return True


def to_parquet(rows: pa.Table) -> bytes:
    """A whole Parquet file.

    Page checksums cover the pages but not their headers, where a flipped bit may read as other
    numbers; so the footer also gets the SHA-256 of all that lies before it.
    """
    # In memory: a writer on the final path would, when it fails half-way, leave a short file that
    # reads without an error.
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer, rows.schema, compression="zstd", write_page_checksum=True
    ) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        data = buffer.getbuffer()
        digest = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        data.release()
        writer.add_key_value_metadata({DIGEST_KEY: json.dumps(digest).encode()})
    return buffer.getvalue()


def is_intact(file: bytes, metadata: Mapping[bytes, bytes]) -> bool:
    """Whether the bytes before the footer are those that were written.

    Args:
        metadata: the file's own key-value metadata.

    Raises:
        KeyError: the footer has no digest.
        ValueError: the digest does not parse.
    """
    digest = json.loads(metadata[DIGEST_KEY])
    if not (isinstance(digest, dict) and digest.keys() == {"bytes", "sha256"}):
        raise ValueError(f"{DIGEST_KEY.decode()} is {digest!r}, expected bytes and sha256")
    actual = hashlib.sha256(memoryview(file)[: digest["bytes"]]).hexdigest()
    return actual == str(digest["sha256"])


def require_publishable(
    output: OutputSettings, recipe: Recipe, setting: str = "output.uri"
) -> None:
    """See that files can be published in a recipe's folder, before there is anything to publish.

    Args:
        setting: that names the output, for the error.

    Raises:
        RequestError: they cannot.
    """
    uri = f"{recipe_uri(output, recipe)}/{_PROBE}"
    filesystem, path = locate(uri, output.storage_options)
    try:
        if isinstance(filesystem, LocalFileSystem):
            make_folder(Path(path).parent)
            with TemporaryFile(dir=Path(path).parent):
                return
        publish_bytes(uri, b"", output.storage_options)
    except OSError as error:
        if can_pass(error) or isinstance(error, StorageError) or error.errno == errno.ENOSPC:
            # By the time that a shard is done this may be over; shards have attempts of their own.
            return
        raise RequestError(
            f"{setting}: {output.uri} cannot be written: {error.strerror or error}; name a place "
            "where you may write"
        ) from error
    # Who may write need not be one who may delete; what is left there is in nobody's way.
    with suppress(OSError), storage_failures(uri):
        filesystem.rm_file(path)


def remove_leftovers(output: OutputSettings, recipe: Recipe) -> int:
    """Delete temporary files of publishers that died, and say how many there were.

    Parquet readers skip them. Only a local folder can hold any: an object store shows an object
    once it is complete.
    """
    filesystem, folder = locate(recipe_uri(output, recipe), output.storage_options)
    if not isinstance(filesystem, LocalFileSystem):
        return 0
    abandoned = [path for path in Path(folder).glob(".*.parquet.*") if _is_abandoned(path)]
    for path in abandoned:
        path.unlink(missing_ok=True)
    return len(abandoned)


def _is_abandoned(path: Path) -> bool:
    try:
        # Of the name itself: what a link leads to is none of ours.
        status = path.lstat()
    except FileNotFoundError:
        # Another driver has published it meanwhile.
        return False
    old = time.time() - status.st_mtime > SECONDS_UNTIL_ABANDONED
    return old and is_temporary(path.name) and not stat.S_ISDIR(status.st_mode)
