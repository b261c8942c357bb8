"""Writing a file only if it still is what one has seen, or still is not there.

Of two who write at once one comes first, and the other is told, where the storage can tell: S3 and
those that are like it compare an ETag, Google's compares nothing but absence (its driver offers no
more), a disk has links and locks. Elsewhere the file is looked at just before it is written: less
than a second in which another's file may be covered, in place of the minutes of a shard.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from cambox.output.whole import (
    NO_LINKS,
    hidden_name,
    make_folder,
    publish_bytes,
    sync_folder,
    written_beside,
)
from cambox.sources.retry import from_storage, http_status, read_whole
from cambox.sources.storage import fingerprint, locate, protocol_of

# Renaming takes milliseconds, and whoever dies loses the lock; so who waits longer waits for a
# disk that hangs.
LOCK_SECONDS = 120.0
_WITH_ETAGS = ("s3", "s3a")
_ONLY_ABSENCE = ("gs", "gcs", "memory")
# The condition is not met; or S3 was just writing the same name for another.
_LOST = (409, 412)
_PUT_LIMIT = 5 << 30


@dataclass(frozen=True)
class Seen:
    """What was at a name when it was looked at.

    Attributes:
        tag: tells this content from any other that the name ever had; None: nothing was there.
    """

    uri: str
    tag: str | None

    @property
    def there(self) -> bool:
        """Whether anything was."""
        return self.tag is not None


def look(uri: str, storage_options: Mapping[str, Any] | None = None) -> Seen:
    """See what is at a name; what is read after it is of this content if ``put`` then succeeds.

    Raises:
        OSError: the storage failed.
    """
    filesystem, path = locate(uri, storage_options)
    try:
        return Seen(uri, from_storage(uri, lambda: _tag(filesystem, path)))
    except (FileNotFoundError, NotADirectoryError):
        return Seen(uri, None)


def read_seen(
    uri: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[Seen, bytes | None]:
    """See what is at a name, and read it; None of nothing.

    Raises:
        OSError: the storage failed.
    """
    seen = look(uri, storage_options)
    if not seen.there:
        return seen, None
    try:
        return seen, read_whole(uri, storage_options)
    except FileNotFoundError:
        return Seen(uri, None), None


def put(seen: Seen, data: bytes, storage_options: Mapping[str, Any] | None = None) -> bool:
    """Write a file whole, if what was seen at its name is what is there.

    Returns:
        Whether the file is there now. False: somebody else was first, and theirs is there, or they
        removed what was seen.

    Raises:
        OSError: the storage failed; see ``publish_bytes`` for what is visible then.
    """
    filesystem, path = locate(seen.uri, storage_options)
    if isinstance(filesystem, LocalFileSystem):
        done = _put_locally(Path(path), seen, data)
    else:
        done = _put_remotely(filesystem, path, seen, data, storage_options)
    # An answer that was lost has the question asked again, and what was written is then in the way
    # of itself.
    return done or read_seen(seen.uri, storage_options)[1] == data


def _put_remotely(
    filesystem: AbstractFileSystem,
    path: str,
    seen: Seen,
    data: bytes,
    storage_options: Mapping[str, Any] | None,
) -> bool:
    protocol = protocol_of(seen.uri)
    condition: dict[str, Any] = {}
    if not seen.there and protocol in (*_WITH_ETAGS, *_ONLY_ABSENCE):
        condition = {"mode": "create"}
    elif seen.there and protocol in _WITH_ETAGS and len(data) < _PUT_LIMIT:
        # In one request, however large: of an upload in parts the driver makes no condition.
        condition = {"IfMatch": seen.tag, "chunksize": max(len(data), 1)}
    # Also where the store is asked to compare: some take the condition, and do not look at it.
    if not _is_still(seen, storage_options):
        return False
    if condition:
        try:
            from_storage(seen.uri, lambda: filesystem.pipe_file(path, data, **condition))
            return True
        except (FileExistsError, FileNotFoundError):
            return False
        except OSError as error:
            if http_status(error) in _LOST:
                return False
            # Some refuse what they do not know.
            if error.errno != errno.ENOSYS and http_status(error) not in (400, 501):
                raise
    publish_bytes(seen.uri, data, storage_options)
    return True


def _is_still(seen: Seen, storage_options: Mapping[str, Any] | None) -> bool:
    return look(seen.uri, storage_options) == seen


def _put_locally(path: Path, seen: Seen, data: bytes) -> bool:
    make_folder(path.parent)
    with written_beside(path, data) as beside:
        done = _replaced(path, seen, beside) if seen.there else _linked(path, seen, beside)
    sync_folder(path.parent)
    return done


def _linked(path: Path, seen: Seen, beside: Path) -> bool:
    """Give the name, which a link can do only where nothing has it."""
    try:
        path.hardlink_to(beside)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _replaced(path, seen, beside)
    return True


def _replaced(path: Path, seen: Seen, beside: Path) -> bool:
    with _locked(path):
        if _tag_of(path) != seen.tag:
            return False
        beside.replace(path)
        return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_name(hidden_name(path.name, "lock")), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except NotImplementedError:
        # Some file systems can lock nothing; there, looking just before it has to do.
        yield
        return
    try:
        yield
    finally:
        # While it is held: who waits for it sees that it is gone, and takes another.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _tag(filesystem: AbstractFileSystem, path: str) -> str | None:
    if isinstance(filesystem, LocalFileSystem):
        return _tag_of(Path(path))
    filesystem.invalidate_cache()
    info = filesystem.info(path)
    return str(info.get("generation") or info.get("ETag") or fingerprint(info))


def _tag_of(path: Path) -> str | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise _no_file(path) from None
        return None
    if not stat.S_ISREG(status.st_mode):
        # A pipe would be read for ever.
        raise _no_file(path)
    # Not the time of the inode: that is another once the name beside it is gone.
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _no_file(path: Path) -> OSError:
    return OSError(errno.EINVAL, "is not a regular file; move it out of the folder", str(path))
