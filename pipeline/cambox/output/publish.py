"""Publishing: a file is visible whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from cambox.config import OutputSettings
from cambox.output.footer import Footer
from cambox.output.recipe import Recipe
from cambox.output.rows import Row, table
from cambox.output.serialise import to_parquet
from cambox.sources.retry import from_storage
from cambox.sources.shards import Shard
from cambox.sources.storage import locate

_TEMPORARY = re.compile(r"[._].+-[0-9a-f]{16}\.parquet\..+")


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


def publish(rows: Sequence[Row], shard: Shard, recipe: Recipe, output: OutputSettings) -> str:
    """Write the one file of a shard and make it visible at once.

    Returns:
        The file's URI.

    Raises:
        OSError: the storage failed; see ``publish_bytes`` for what is visible then.
    """
    annotations = table(rows, output.store_maps)
    annotations = annotations.replace_schema_metadata(Footer.of(recipe, shard).to_metadata())
    uri = f"{recipe_uri(output, recipe)}/{file_name(shard.uri)}"
    publish_bytes(uri, to_parquet(annotations), output.storage_options)
    return uri


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
    else:
        # One PUT, or a completed multipart: object stores show the object only once it is complete.
        from_storage(uri, lambda: filesystem.pipe_file(path, data))


def _publish_locally(path: Path, data: bytes) -> None:
    _make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
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


def _make_folder(path: Path) -> None:
    """Make a folder whose name, too, survives a loss of power, and with it the files in it."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a local folder survive a loss of power."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
