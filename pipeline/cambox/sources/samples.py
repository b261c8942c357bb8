"""One shard, to its samples: the files of a tar archive that share a key; which is the image."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from cambox.errors import ShardError, some_of
from cambox.sources.archive import BLOCKSIZE, DEFAULT_MAX_SAMPLE_BYTES, Member, read_members
from cambox.sources.formats import IMAGE_SUFFIXES, begins_an_image
from cambox.sources.keys import (
    file_key,
    file_suffix,
    key_and_suffix,
    readable,
    split_name,
)
from cambox.sources.labels import MOST_LABEL_BYTES
from cambox.sources.shards import Shard
from cambox.sources.stream import is_compressed, open_shard, read_files
from cambox.sources.tar_headers import ArchiveError
from cambox.sources.webdataset_io import group_by_keys, reraise_exception

# Names that `group_by_keys` keeps its own notes under; `__bad__` would make it drop the sample.
_RESERVED_SUFFIXES = ("__key__", "__url__", "__bad__", "__local_path__")
_MAX_NAMES_CHARACTERS = 1 << 20
# So many bytes at most come out of one of gzip data.
_MOST_EXPANSION = 1032
_ZLIB_NO_MEMORY = "Error -4 "
SEVERAL_IMAGES = "several images under one key"


@dataclass(frozen=True)
class ImageRule:
    """Which files of a key are images that get a row: ``input.image`` and ``.several_images``.

    Attributes:
        image: the suffix of the one that is (``rgb.png``), in lower case; None: any image.
        several: of several images ``first`` takes one, ``name`` all, each as a sample of its own
            named as its file; ``refuse`` gives the shard up.
    """

    image: str | None = None
    several: Literal["refuse", "first", "name"] = "first"

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any]) -> ImageRule:
        """That of published rows; a recipe holds only what is not the default."""
        given = settings["input"]
        return cls(given.get("image"), given.get("several_images", "first"))


ANY_IMAGE = ImageRule()


@dataclass(frozen=True)
class Sample:
    """The files of one key, and which of them is its image.

    Attributes:
        key: the members' common path up to its first dot (in the last path component); with
            ``several_images: name`` up to the dot before the image's last suffix.
        index: position in the shard, from 0.
        members: bytes by suffix, the part after the first dot, in lower case (``left.jpg``).
        image: the suffix of its image, None where it has none.
        others: the suffixes of further images, which get no row.
    """

    key: str
    index: int
    members: Mapping[str, bytes]
    image: str | None
    others: tuple[str, ...] = ()

    @property
    def remark(self) -> str | None:
        """What a row says of the images that it is not of; None where there are none."""
        if not self.others:
            return None
        return (
            f"{SEVERAL_IMAGES}: {self.image} is taken, {some_of(self.others)} left out; choose "
            "with input.image, or set input.several_images to name"
        )


def read_samples(
    shard: Shard,
    storage_options: Mapping[str, Any] | None = None,
    on_bytes: Callable[[bytes], object] | None = None,
    max_sample_bytes: int = DEFAULT_MAX_SAMPLE_BYTES,
    rule: ImageRule = ANY_IMAGE,
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
        rule: which of the files are images.

    Raises:
        ShardError: the archive is cut or damaged, two samples share a key, or one has several
            images and the rule refuses that.
        OSError: the storage failed.
    """
    seen: set[str] = set()
    index = 0
    for common_key, members in _groups(shard, storage_options, on_bytes, max_sample_bytes):
        for key, image, others in images_of(common_key, members, rule):
            sample = Sample(key, index, members, image, others)
            if key in seen:
                raise ShardError(
                    f"{shard.uri}: the key {key!r} comes again after other keys; re-pack it with "
                    "unique keys and all files of a sample next to each other"
                )
            if others and rule.several == "refuse":
                raise ShardError(f"{shard.uri}: {key!r} has {sample.remark}")
            seen.add(key)
            index += 1
            yield sample


def _groups(
    shard: Shard,
    storage_options: Mapping[str, Any] | None,
    on_bytes: Callable[[bytes], object] | None,
    max_sample_bytes: int,
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The files of each key, by suffix."""
    if shard.files:
        files = read_files(shard, storage_options, on_bytes, max_sample_bytes)
        for key, group in groupby(files, key=lambda read: file_key(read[0].path)):
            members: dict[str, bytes] = {}
            for file, data in group:
                if file.classes is not None:
                    members["cls"] = file.classes.encode()
                members[file_suffix(file.path)] = data
            yield key, members
        return
    try:
        with open_shard(shard, storage_options, on_bytes) as stream:
            whole = read_members(stream, max_sample_bytes, _wanted_bytes)
            within = _within_samples(whole, max_sample_bytes, shard.uri)
            archived = _as_webdataset(within, shard.uri)
            for group in group_by_keys(archived, split_name, handler=reraise_exception):
                del group["__url__"]
                yield group.pop("__key__"), group
    except ArchiveError as error:
        raise ShardError(f"{shard.uri}: {error}") from error
    except ValueError as error:
        raise ShardError(
            f"{shard.uri}: {error.args[0]}; re-pack it with each member once"
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        if str(error).startswith(_ZLIB_NO_MEMORY):
            raise MemoryError(str(error)) from error
        raise ShardError(
            f"{shard.uri}: cut or damaged gzip data ({error}); copy it again or re-pack it"
        ) from error


def most_in_a_sample(shard: Shard) -> int:
    """The ``max_sample_bytes`` for a shard that was annotated before: what it can hold at most.

    The run that annotated it may have raised its own bound, which no file says.
    """
    expansion = _MOST_EXPANSION if is_compressed(shard.uri) else 1
    return max(DEFAULT_MAX_SAMPLE_BYTES, shard.size * expansion)


def _wanted_bytes(name: str) -> int | None:
    """Of a label's member no more than tells that it is too long."""
    most = MOST_LABEL_BYTES.get(name.rpartition(".")[2].lower())
    return None if most is None else most + 1


def _within_samples(members: Iterator[Member], limit: int, uri: str) -> Iterator[Member]:
    """The members, as long as no sample of neighbours is larger than the limit."""
    last_key: str | None = None
    size = names = 0
    for member in members:
        folder, slash, base = member.name.rpartition("/")
        key = folder + slash + base.partition(".")[0]
        # A member costs its header even where it is empty.
        cost = len(member.data) + BLOCKSIZE
        if key != last_key:
            size = names = 0
        size += cost
        names += len(member.name)
        last_key = key
        if names > _MAX_NAMES_CHARACTERS:
            raise ShardError(
                f"{uri}: the names of the files of {key[:100]!r} have more than "
                f"{_MAX_NAMES_CHARACTERS} characters together; re-pack it with shorter ones"
            )
        if size > limit + BLOCKSIZE:
            raise ShardError(
                f"{uri}: the files of the sample {key!r} have more than {limit} bytes together; "
                "re-pack it, or raise input.max_sample_bytes"
            )
        yield member


def _as_webdataset(members: Iterator[Member], uri: str) -> Iterator[dict[str, object]]:
    for member in members:
        name = readable(member.name)
        folder, _, base = name.rpartition("/")
        if ".." in folder.split("/"):
            raise ShardError(
                f"{uri}: member {name!r} leads out of the archive; re-pack it without '..'"
            )
        if key_and_suffix(name) is None:
            if member.unchecked and begins_an_image(member.data):
                raise ShardError(
                    f"{uri}: member {name!r} is an image that its name makes part of no sample, "
                    "and no checksum covers that name: copy the shard again, or rename the member"
                )
            continue
        if base.partition(".")[2].lower() in _RESERVED_SUFFIXES:
            raise ShardError(
                f"{uri}: member {name!r} has a suffix that WebDataset keeps for itself; rename it"
            )
        yield {"fname": name, "data": member.data, "__url__": uri}


def images_of(
    key: str, suffixes: Iterable[str], rule: ImageRule
) -> list[tuple[str, str | None, tuple[str, ...]]]:
    """The samples that the files of one key are.

    Returns:
        Of each its key, the suffix of its image (None where it has none), and of those left out.
    """
    if rule.image is not None:
        return [(key, rule.image if rule.image in suffixes else None, ())]
    images = [suffix for suffix in suffixes if _format(suffix) in IMAGE_SUFFIXES]
    if rule.several == "name" and images:
        names = [f"{key}.{suffix}".rpartition(".")[0] for suffix in images]
        # Of a.jpg and a.png the name alone does not tell which.
        return [
            (name if names.count(name) == 1 else f"{key}.{suffix}", suffix, ())
            for name, suffix in zip(names, images, strict=True)
        ]
    images.sort(key=_precedence)
    return [(key, next(iter(images), None), tuple(images[1:]))]


def _precedence(suffix: str) -> tuple[bool, int, str]:
    """A plain suffix before compound ones (``left.jpg``), then by format, then by name."""
    return "." in suffix, IMAGE_SUFFIXES.index(_format(suffix)), suffix


def _format(suffix: str) -> str:
    return suffix.rpartition(".")[2]
