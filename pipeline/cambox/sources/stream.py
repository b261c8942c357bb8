"""One shard's bytes, from its first to its last, as they come out of storage."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

from cambox.errors import ShardError
from cambox.sources.retry import from_storage, with_retries
from cambox.sources.shards import OF_CONTENT, ImageFile, Shard
from cambox.sources.storage import open_stream, storage_failures
from cambox.threads import in_order

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Large enough that a remote read is not dominated by the calls.
_BUFFER_BYTES = 1 << 20
SHARDS_AT_ONCE = 8
# Of a chunk; a request to an object store takes far longer than its bytes.
FILES_AT_ONCE = 8


class StoredBytes(io.RawIOBase):
    """Hands on the bytes of a stored file and notices when the storage gives fewer than it has.

    A connection that closes early looks like the end of the file. The file itself may be whole,
    so that is the storage's failure (``OSError``, worth another attempt), not the shard's.
    """

    def __init__(
        self, source: BinaryIO, shard: Shard, on_bytes: Callable[[bytes], object] | None = None
    ) -> None:
        super().__init__()
        self._source = source
        self._shard = shard
        self._on_bytes = on_bytes
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        with storage_failures(self._shard.uri):
            data = self._source.read(len(view))
        if not data and self._shard.size not in (0, self._count):
            raise OSError(
                f"{self._shard.uri}: the storage gave {self._count} bytes where it had listed "
                f"{self._shard.size}: a connection was cut, or the file has changed since"
            )
        view[: len(data)] = data
        self._count += len(data)
        if data and self._on_bytes is not None:
            self._on_bytes(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def is_compressed(uri: str) -> bool:
    """Whether a shard's name says that it is gzip around a tar."""
    name = urlsplit(uri).path if "://" in uri else uri
    return name.lower().endswith((".gz", ".tgz"))


@contextmanager
def open_shard(
    shard: Shard,
    storage_options: Mapping[str, Any] | None = None,
    on_bytes: Callable[[bytes], object] | None = None,
) -> Iterator[BinaryIO]:
    """Open a shard as a stream of tar bytes; ``.gz`` and ``.tgz`` are decompressed on the way.

    Args:
        on_bytes: called with the stored (compressed) bytes after each read.

    Raises:
        OSError: the storage failed, or gave fewer or more bytes than ``shard.size``.
        gzip.BadGzipFile, zlib.error, EOFError: while reading, the compressed data are damaged.
    """
    source = with_retries(shard.uri, lambda: open_stream(shard.stored[0], storage_options))
    stored = StoredBytes(source, shard, on_bytes)
    with io.BufferedReader(stored, _BUFFER_BYTES) as buffered:
        if is_compressed(shard.uri):
            with gzip.GzipFile(fileobj=buffered, mode="rb") as plain:
                yield cast(BinaryIO, plain)
        else:
            yield cast(BinaryIO, buffered)


def read_files(
    shard: Shard,
    storage_options: Mapping[str, Any] | None = None,
    on_bytes: Callable[[bytes], object] | None = None,
    max_bytes: int | None = None,
) -> Iterator[tuple[ImageFile, bytes]]:
    """The pictures of a chunk in order, some read ahead.

    Args:
        on_bytes: called with each before it is given.
        max_bytes: of one of them.

    Raises:
        ShardError: one is larger.
        OSError: the storage failed, or gave another number of bytes than ``shard.size``.
    """

    def read(uri: str) -> bytes:
        with open_stream(uri, storage_options) as stream:
            return stream.read(-1 if max_bytes is None else max_bytes + 1)

    count = 0
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        contents = in_order(
            pool, lambda uri: from_storage(uri, lambda: read(uri)), shard.stored, FILES_AT_ONCE
        )
        for file, data in zip(shard.files, contents, strict=True):
            if max_bytes is not None and len(data) > max_bytes:
                raise ShardError(
                    f"{shard.uri}: {file.path} has more than {max_bytes} bytes; remove it, or "
                    "raise input.max_sample_bytes"
                )
            count += len(data)
            if on_bytes is not None:
                on_bytes(data)
            yield file, data
    if shard.size not in (0, count):
        raise OSError(
            f"{shard.uri}: the storage gave {count} bytes where it had listed {shard.size}: the "
            "pictures have changed since"
        )


def with_content_fingerprints(
    shards: Sequence[Shard], storage_options: Mapping[str, Any] | None = None
) -> list[Shard]:
    """The same shards with a SHA-256 of their bytes as fingerprint; reads every shard once.

    Raises:
        OSError: the storage failed.
    """

    def digest(shard: Shard) -> str:
        if shard.files:
            whole = hashlib.sha256()
            for _ in read_files(shard, storage_options, whole.update):
                pass
            return whole.hexdigest()
        with open_stream(shard.stored[0], storage_options) as stored:
            # What ends early is a cut connection, not another content.
            return hashlib.file_digest(StoredBytes(stored, shard), "sha256").hexdigest()

    def read(shard: Shard) -> Shard:
        found = from_storage(shard.uri, lambda: digest(shard))
        return replace(shard, fingerprint=f"{OF_CONTENT}{found}")

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        return list(pool.map(read, shards))
