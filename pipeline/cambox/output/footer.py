"""What a published file says of itself: which recipe made it, and from which shard.

The recipe is all that shapes the rows of a shard, and nothing else. Batch size, workers and engine
are left out on purpose: they change no row.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from cambox import __version__
from cambox.errors import RequestError
from cambox.sources.retry import from_storage
from cambox.sources.shards import Shard
from cambox.sources.storage import locate

SCHEMA_VERSION = 1
PREFIX = "cambox."
DIGEST_KEY = f"{PREFIX}data".encode()
"""The entry that says what the bytes before the footer were."""
SOURCE_KEY = f"{PREFIX}source".encode()
"""The entry of a file made from published ones that says from which bytes; see ``derived``."""
CANARY_KEY = f"{PREFIX}canary".encode()
"""The entry that says what the worker that made the file made of the built-in pictures."""
FORWARD_KEY = f"{PREFIX}forward".encode()
"""The entry of a file whose network was compiled, which moves its rounding: ``inductor``."""
VERSIONS_KEY = f"{PREFIX}versions".encode()
RETRIED_KEY = f"{PREFIX}retried".encode()
"""The entry of a file some of whose rows were made again: how many, and by which versions."""
# More than most footers have, so that most take one read.
TAIL_BYTES = 1 << 16
LIBRARIES = (
    *("torch", "torchvision", "timm", "opencv-python-headless", "numpy", "pyarrow"),
    *("pillow", "numba"),
)


@dataclass(frozen=True)
class Recipe:
    """The resolved settings that shape the rows.

    Attributes:
        settings: as JSON, keys sorted.
        class_names: one for each class of the model.
        digest: SHA-256 of settings and class names, in hexadecimal.
    """

    settings: str
    class_names: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, settings: Mapping[str, Any], class_names: tuple[str, ...]) -> Recipe:
        """The recipe of settings in plain types."""
        text = json.dumps(settings, sort_keys=True)
        return cls(text, class_names, recipe_digest(text, class_names))

    @property
    def folder(self) -> str:
        """The name of the folder that holds this recipe's files."""
        return folder_name(self.digest)

    def class_id(self, name: str | None) -> int | None:
        """The index of a class by its name; None of none."""
        return None if name is None else self.class_names.index(name)


def folder_name(digest: str) -> str:
    """The name of the folder that holds the files of a recipe with this digest."""
    return digest[:16]


def recipe_digest(settings: str, class_names: Sequence[str]) -> str:
    """SHA-256 of a recipe's settings (JSON) and class names, in hexadecimal."""
    return hashlib.sha256("\n".join([settings, *class_names]).encode()).hexdigest()


@functools.cache
def library_versions() -> Mapping[str, str]:
    """The versions of cambox and of the libraries that shape a file."""
    return {"cambox": __version__} | {name: version(name) for name in LIBRARIES}


@dataclass(frozen=True)
class Footer:
    """The ``cambox.*`` entries of a file's key-value metadata.

    Attributes:
        recipe: the resolved settings, as JSON.
        versions: of cambox and the libraries that made the file.
    """

    schema_version: int
    recipe: str
    recipe_digest: str
    shard: Shard
    classes: tuple[str, ...]
    versions: Mapping[str, str]

    @staticmethod
    def metadata_of(recipe: Recipe, shard: Shard) -> dict[bytes, bytes]:
        """The entries of a file that this process makes."""
        entries = {
            "schema_version": str(SCHEMA_VERSION),
            "recipe": recipe.settings,
            "recipe_digest": recipe.digest,
            "shard": json.dumps(shard.to_entry()),
            "classes": json.dumps(recipe.class_names),
            "versions": json.dumps(library_versions()),
        }
        return {(PREFIX + key).encode(): value.encode() for key, value in entries.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes]) -> Footer:
        """Read the entries back.

        Raises:
            KeyError: the file was not made by cambox.
        """

        def entry(key: str) -> str:
            return metadata[(PREFIX + key).encode()].decode()

        return cls(
            int(entry("schema_version")),
            entry("recipe"),
            entry("recipe_digest"),
            Shard.of_entry(json.loads(entry("shard"))),
            tuple(json.loads(entry("classes"))),
            json.loads(entry("versions")),
        )


class NotOursError(RequestError):
    """A file of an output is damaged, or cambox did not make it; the message says what to do."""


@dataclass(frozen=True)
class FileEnd:
    """What the end of a Parquet file says.

    Attributes:
        size: of the whole file, in bytes.
        digest: SHA-256 of the footer. As the footer has that of all bytes before it, two files with
            one digest are the same file.
    """

    metadata: pq.FileMetaData
    size: int
    digest: str


def read_end(uri: str, storage_options: Mapping[str, Any] | None = None) -> FileEnd:
    """The end of a Parquet file; only that is read.

    Raises:
        NotOursError: the file is damaged, or none (a folder, a pipe, a broken link).
        OSError: the storage failed, or has no such file.
    """
    filesystem, path = locate(uri, storage_options)
    require_a_file(uri, filesystem, path)

    # Read first and parsed then: Arrow's word for bytes that do not parse is an OSError as well.
    # Opening is a request of its own: asked again together, each would use up the other's tries.
    with from_storage(uri, lambda: filesystem.open(path, "rb")) as file:
        return _parsed_end(uri, *from_storage(uri, lambda: _tail(file)))


def end_of(uri: str, file: IO[bytes]) -> FileEnd:
    """The end of an open Parquet file; ``uri`` is for messages.

    Raises:
        NotOursError: the file is damaged.
        OSError: the storage failed.
    """
    return _parsed_end(uri, *_tail(file))


def _parsed_end(uri: str, tail: bytes, size: int) -> FileEnd:
    with parsed(uri):
        metadata = pq.read_metadata(pa.BufferReader(tail))
    return FileEnd(metadata, size, hashlib.sha256(tail[-_length(tail) :]).hexdigest())


def require_a_file(uri: str, filesystem: AbstractFileSystem, path: str) -> None:
    """See that what has a file's name is one: opening a pipe would wait for ever.

    Raises:
        NotOursError: it is not; of one that is not there nothing is said.
    """
    if not isinstance(filesystem, LocalFileSystem) or Path(path).is_file():
        return
    if Path(path).is_symlink() or Path(path).exists():
        raise NotOursError(f"{uri} is not a regular file; move it out of the folder")


def _tail(file: IO[bytes]) -> tuple[bytes, int]:
    """The bytes of the footer and perhaps some before it; the file's size."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read()
    length = _length(tail)
    if len(tail) < length <= size:
        file.seek(size - length)
        tail = file.read()
    return tail, size


def _length(tail: bytes) -> int:
    # The file ends with the footer, its length, and a magic number.
    return int.from_bytes(tail[-8:-4], "little") + 8


@contextmanager
def parsed(uri: str) -> Iterator[None]:
    """What goes wrong with bytes that are there, in the one text for it.

    Raises:
        NotOursError: in place of Arrow's errors, and of a footer's that lacks an entry.
    """
    try:
        yield
    except RequestError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise damaged(uri, str(error)) from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise NotOursError(f"{uri} is not of this cambox; move it out of the folder") from error


def damaged(uri: str, why: str) -> NotOursError:
    """That the bytes of a file do not parse, or are not those that were written."""
    return NotOursError(
        f"{uri} is damaged ({' '.join(why.split())}); delete it and run cambox annotate again"
    )
