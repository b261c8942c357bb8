"""Publishing: a file is visible whole, or not at all; and it can tell later whether it still is."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.output.footer import DIGEST_KEY, Footer, Recipe
from cambox.sources.retry import StorageError, can_pass, from_storage
from cambox.sources.shards import Shard
from cambox.sources.storage import locate, protocol_of, storage_failures

ROW_GROUP_ROWS = 10_000
# Publishing takes seconds. What is a day old has no live owner, on this machine or another.
SECONDS_UNTIL_ABANDONED = 24 * 3600.0
# One name for all, so that at most one is left where nothing may be deleted.
_PROBE = f"_writable-{16 * '0'}.parquet.probe"
_TEMPORARY = re.compile(r"[._].+-[0-9a-f]{16}\.parquet\..+")
# Their drivers write in place, so a reader meets half a file; they rename at once, like a disk.
_WRITTEN_IN_PLACE = ("hdfs", "webhdfs")


def file_name(shard_uri: str) -> str:
    """The name of a shard's file: readable, and a function of the shard's URI alone."""
    name = PurePosixPath(shard_uri).name
    stem = name.split(".tar")[0].removesuffix(".tgz").lstrip("._") or "shard"
    return f"{stem}-{hashlib.sha256(shard_uri.encode()).hexdigest()[:16]}.parquet"


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that publishing writes under before the file is whole."""
    return _TEMPORARY.fullmatch(name) is not None


def recipe_uri(output: OutputSettings, recipe: Recipe) -> str:
    """The folder of a recipe's files."""
    return f"{output.uri.rstrip('/')}/{recipe.folder}"


def publish(
    rows: pa.Table,
    shard: Shard,
    recipe: Recipe,
    output: OutputSettings,
    more: Mapping[bytes, bytes] | None = None,
) -> str:
    """Write the one file of a shard and make it visible at once.

    Args:
        rows: with the columns of ``rows.schema``.
        more: entries of the footer beside ``Footer``'s.

    Returns:
        The file's URI.

    Raises:
        OSError: the storage failed; see ``publish_bytes`` for what is visible then.
    """
    metadata = {**Footer.metadata_of(recipe, shard), **(more or {})}
    uri = f"{recipe_uri(output, recipe)}/{file_name(shard.uri)}"
    publish_bytes(uri, to_parquet(rows.replace_schema_metadata(metadata)), output.storage_options)
    return uri


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


def publish_bytes(uri: str, data: bytes, storage_options: Mapping[str, Any] | None = None) -> None:
    """Write a file and make it visible at once, in place of one that is there.

    Raises:
        RequestError: the URI is of a kind that is not allowed.
        OSError: the storage failed. What was visible before is as it was, unless the file was
            renamed and only its folder could not be synced: then the new file is visible, whole,
            and a rerun finds it.
    """
    filesystem, path = locate(uri, storage_options)
    if isinstance(filesystem, LocalFileSystem):
        _publish_locally(Path(path), data)
    elif protocol_of(uri) in _WRITTEN_IN_PLACE:
        folder, _, name = path.rpartition("/")
        beside = f"{folder}/{name_beside(name)}"

        def write_and_rename() -> None:
            filesystem.makedirs(folder, exist_ok=True)
            filesystem.pipe_file(beside, data)
            if protocol_of(uri) == "webhdfs" and filesystem.exists(path):
                # Its renaming does not replace; for a moment there is no file, but never half one.
                filesystem.rm_file(path)
            filesystem.mv(beside, path)
            if filesystem.info(path)["size"] != len(data):
                raise OSError(f"{uri}: the file could not be renamed to its name")

        from_storage(uri, write_and_rename)
    else:
        # One PUT, or a completed multipart: object stores show the object only once it is complete.
        from_storage(uri, lambda: filesystem.pipe_file(path, data))


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
            _make_folder(Path(path).parent)
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
    # Who may write need not be one who may delete; what is left there is a temporary file of ours.
    with suppress(OSError), storage_failures(uri):
        filesystem.rm_file(path)


def _make_folder(folder: Path) -> None:
    # The folder's own name, too, has to survive a loss of power, and with it the files in it.
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def _publish_locally(path: Path, data: bytes) -> None:
    _make_folder(path.parent)
    beside = path.with_name(name_beside(path.name))
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def name_beside(name: str) -> str:
    """A name of this process alone, hidden from readers, for what is not whole yet."""
    return f".{name}.{os.getpid()}-{secrets.token_hex(4)}"


def sync_folder(path: Path) -> None:
    """Make the names in a local folder survive a loss of power."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
