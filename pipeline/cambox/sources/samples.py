"""One shard, to its samples: the files of a tar archive that share a key; which is the image."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cambox.errors import ShardError
from cambox.sources.archive import (
    BLOCKSIZE,
    DEFAULT_MAX_SAMPLE_BYTES,
    ArchiveError,
    Member,
    read_members,
)
from cambox.sources.formats import IMAGE_SUFFIXES
from cambox.sources.shards import Shard
from cambox.sources.stream import is_compressed, open_shard
from cambox.sources.webdataset_io import base_plus_ext, group_by_keys, reraise_exception

# WebDataset's own metadata, which its readers pass over (`tar_file_iterator`, `skip_meta`).
META_NAME = re.compile(r"__[^/]*__($|/)")
# Names that `group_by_keys` keeps its own notes under; `__bad__` would make it drop the sample.
_RESERVED_SUFFIXES = ("__key__", "__url__", "__bad__", "__local_path__")
# So many bytes at most come out of one of gzip data.
_MOST_EXPANSION = 1032


@dataclass(frozen=True)
class Sample:
    """The files of one key.

    Attributes:
        key: the members' common path up to its first dot (in the last path component).
        index: position in the shard, from 0.
        members: bytes by suffix, the part after that dot in lower case (``jpg``, ``left.jpg``).
    """

    key: str
    index: int
    members: Mapping[str, bytes]


def read_samples(
    shard: Shard,
    storage_options: Mapping[str, Any] | None = None,
    on_bytes: Callable[[bytes], object] | None = None,
    max_sample_bytes: int = DEFAULT_MAX_SAMPLE_BYTES,
) -> Iterator[Sample]:
    """The samples of a shard in order, as WebDataset groups them, one in memory at a time.

    A shard is known to be whole only at its end: what was yielded counts only when this iterator
    is exhausted without an error. Members without a suffix, hidden files and WebDataset's own
    metadata (``__name__``) belong to no sample.

    Args:
        shard: one whose name ends in ``.gz`` or ``.tgz`` is decompressed.
        on_bytes: called with the stored bytes after each read.
        max_sample_bytes: a sample whose files, headers included, are larger together makes the
            shard unreadable; so does a member that declares more.

    Raises:
        ShardError: the archive is cut or damaged, or two samples share a key.
        OSError: the storage failed.
    """
    seen: set[str] = set()
    try:
        with open_shard(shard, storage_options, on_bytes) as stream:
            members = _within_samples(
                read_members(stream, max_sample_bytes), max_sample_bytes, shard.uri
            )
            files = _as_webdataset(members, shard.uri)
            for index, members in enumerate(group_by_keys(files, handler=reraise_exception)):
                key = members.pop("__key__")
                del members["__url__"]
                if key in seen:
                    raise ShardError(
                        f"{shard.uri}: the key {key!r} comes again after other keys; re-pack it "
                        "with unique keys and all files of a sample next to each other"
                    )
                seen.add(key)
                yield Sample(key, index, members)
    except ArchiveError as error:
        raise ShardError(f"{shard.uri}: {error}") from error
    except ValueError as error:
        raise ShardError(
            f"{shard.uri}: {error.args[0]}; re-pack it with each member once"
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ShardError(
            f"{shard.uri}: cut or damaged gzip data ({error}); copy it again or re-pack it"
        ) from error


def most_in_a_sample(shard: Shard) -> int:
    """The ``max_sample_bytes`` for a shard that was annotated before: what it can hold at most.

    The run that annotated it may have raised its own bound, which no file says.
    """
    expansion = _MOST_EXPANSION if is_compressed(shard.uri) else 1
    return max(DEFAULT_MAX_SAMPLE_BYTES, shard.size * expansion)


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """A member's key, and its suffix in lower case; None for one that belongs to no sample.

    Args:
        name: as ``tarfile`` gives it.
    """
    name = _readable(name)
    if not _belongs_to_sample(name):
        return None
    key, suffix = base_plus_ext(name)
    return None if key is None else (key, suffix.lower())


def _readable(name: str) -> str:
    # A name that is not UTF-8 comes with lone surrogates, which no Parquet file can hold.
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _belongs_to_sample(name: str) -> bool:
    return not META_NAME.match(name) and not name.rpartition("/")[2].startswith(".")


def _within_samples(members: Iterator[Member], limit: int, uri: str) -> Iterator[Member]:
    """The members, as long as no sample of neighbours is larger than the limit."""
    last_key: str | None = None
    size = 0
    for member in members:
        folder, slash, base = member.name.rpartition("/")
        key = folder + slash + base.partition(".")[0]
        # A member costs its header even where it is empty.
        cost = len(member.data) + BLOCKSIZE
        size = size + cost if key == last_key else cost
        last_key = key
        if size > limit + BLOCKSIZE:
            raise ShardError(
                f"{uri}: the files of the sample {key!r} have more than {limit} bytes together; "
                "re-pack it, or raise input.max_sample_bytes"
            )
        yield member


def _as_webdataset(members: Iterator[Member], uri: str) -> Iterator[dict[str, object]]:
    for member in members:
        name = _readable(member.name)
        folder, _, base = name.rpartition("/")
        if ".." in folder.split("/"):
            raise ShardError(
                f"{uri}: member {name!r} leads out of the archive; re-pack it without '..'"
            )
        if not _belongs_to_sample(name):
            continue
        if base.partition(".")[2].lower() in _RESERVED_SUFFIXES:
            raise ShardError(
                f"{uri}: member {name!r} has a suffix that WebDataset keeps for itself; rename it"
            )
        yield {"fname": name, "data": member.data, "__url__": uri}


def image_member(members: Mapping[str, bytes]) -> bytes | None:
    """The encoded image of a sample, or None where it has none; see ``image_suffix``."""
    suffix = image_suffix(members)
    return None if suffix is None else members[suffix]


def image_suffix(suffixes: Iterable[str]) -> str | None:
    """Which of a sample's suffixes is that of its image; None where it has none.

    The first one in the order of ``IMAGE_SUFFIXES``. Where no suffix is one of them as it
    stands, compound ones count by their last part (``left.jpg``), the first in that same order,
    then by name.
    """
    last_parts = {name: name.rpartition(".")[2] for name in suffixes}
    images = [name for name, last in last_parts.items() if last in IMAGE_SUFFIXES]
    return min(
        images,
        key=lambda name: ("." in name, IMAGE_SUFFIXES.index(last_parts[name]), name),
        default=None,
    )
