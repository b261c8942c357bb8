"""Files that are visible whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from cambox.sources.retry import from_storage
from cambox.sources.storage import locate, protocol_of

# Their drivers write in place, so a reader meets half a file; they rename at once, like a disk.
_WRITTEN_IN_PLACE = ("hdfs", "webhdfs")
MOST_NAME_BYTES = 255
"""Of a file's name, on all usual file systems."""
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP)
"""What a local file system says that has no links, such as a mounted object store."""


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
        make_folder(Path(path).parent)
        with written_beside(Path(path), data) as beside:
            beside.replace(path)
        sync_folder(Path(path).parent)
    elif protocol_of(uri) in _WRITTEN_IN_PLACE:
        folder, _, name = path.rpartition("/")
        beside_path = f"{folder}/{name_beside(name)}"

        def write_and_rename() -> None:
            filesystem.makedirs(folder, exist_ok=True)
            filesystem.pipe_file(beside_path, data)
            if protocol_of(uri) == "webhdfs" and filesystem.exists(path):
                # Its renaming does not replace; for a moment there is no file, but never half one.
                filesystem.rm_file(path)
            filesystem.mv(beside_path, path)
            if filesystem.info(path)["size"] != len(data):
                raise OSError(f"{uri}: the file could not be renamed to its name")

        from_storage(uri, write_and_rename)
    else:
        # One PUT, or a completed multipart: object stores show the object only once it is complete.
        from_storage(uri, lambda: filesystem.pipe_file(path, data))


@contextmanager
def written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A local file of a hidden name, whole and on the disk, to be renamed or linked; then gone."""
    beside = path.with_name(name_beside(path.name))
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def name_beside(name: str) -> str:
    """A name of this process alone, hidden from readers, for what is not whole yet."""
    return hidden_name(name, f"{os.getpid()}-{secrets.token_hex(4)}")


def hidden_name(name: str, ending: str) -> str:
    """A name beside another, ``.NAME.ENDING``; of a long one the beginning is left out."""
    room = MOST_NAME_BYTES - len(f"..{ending}")
    return f".{os.fsencode(name)[-room:].decode(errors='ignore')}.{ending}"


def make_folder(folder: Path) -> None:
    """Make a local folder whose name, and with it the files in it, survives a loss of power."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a local folder survive a loss of power."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
