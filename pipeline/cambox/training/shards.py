"""The shards that rows were made from: where they are now, and their images."""

from __future__ import annotations

import logging
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

from cambox.errors import RequestError, ShardError
from cambox.output.published_file import PublishedFile
from cambox.sources.keys import file_key, file_suffix, key_and_suffix
from cambox.sources.retry import can_pass, from_storage
from cambox.sources.samples import (
    ANY_IMAGE,
    ImageRule,
    Sample,
    images_of,
    most_in_a_sample,
    read_samples,
)
from cambox.sources.shards import Shard
from cambox.sources.states import states_of
from cambox.sources.storage import canonical_uri, locate
from cambox.training.labelled import LabelledImage, TrainingSet

LOG = logging.getLogger(__name__)

READINGS = 2


EncodedImage = tuple[LabelledImage, str, bytes]
"""An image, the suffix of its file in the shard in lower case (``left.jpg``), and the file."""


def shards_now(
    files: Sequence[PublishedFile],
    moved_to: str | None,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Shard]:
    """The shard of each file, seen to be the one that was annotated.

    Args:
        moved_to: the folder or URL that holds the shards now, under their own names; a copy has
            another time, so it is known by its size alone. None: they are where they were.

    Raises:
        RequestError: a shard is gone or not the one that was annotated, or two have one name.
        OSError: the storage failed.
    """
    shards = [file.shard for file in files]
    if moved_to is not None:
        folder = canonical_uri(moved_to).rstrip("/")
        names = [shard.uri.rstrip("/").rsplit("/", 1)[-1] for shard in shards]
        for name, count in Counter(names).items():
            if count > 1:
                raise RequestError(
                    f"{folder}/{name} would be the place of several shards; keep their folders "
                    "apart and use them where they were annotated"
                )
        shards = [
            replace(shard, uri=f"{folder}/{name}")
            for shard, name in zip(shards, names, strict=True)
        ]
    states = states_of(shards, storage_options, moved_to is not None)
    for shard, state in zip(shards, states, strict=True):
        if state == "gone":
            remedy = "name the folder that holds the shards now"
            raise RequestError(f"{shard.uri} is not there; {remedy}")
        if state == "changed":
            raise RequestError(
                f"{shard.uri} is not the file that was annotated ({shard.fingerprint}); run "
                "cambox annotate again, or name the folder that holds a copy of it"
            )
    return shards


def encoded_images(
    training_set: TrainingSet,
    index: int,
    shard: Shard,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[EncodedImage]:
    """The images of one file in the order of the shard; only the rows are all in memory.

    Args:
        shard: where the file's shard is now.

    Raises:
        ShardError: the shard is damaged, or does not hold the samples of the rows.
        OSError: the storage failed.
    """
    images = {image.key: image for images in training_set.read(index) for image in images}
    samples = 0
    rule = training_set.recipe.image_rule
    for sample in _samples(shard, storage_options, rule):
        samples += 1
        image = images.pop(sample.key, None)
        if image is None:
            continue
        if sample.image is None:
            raise changed(shard.uri, f"the sample {sample.key!r} has no image any more")
        yield image, sample.image, sample.members[sample.image]
    if images:
        raise changed(shard.uri, f"the sample {next(iter(images))!r} is gone")
    rows = training_set.recipe.files[index].rows
    if samples != rows:
        raise changed(shard.uri, f"it has {samples} samples and had {rows}")


def _samples(
    shard: Shard, storage_options: Mapping[str, Any] | None, rule: ImageRule
) -> Iterator[Sample]:
    """The samples of a shard; a stream that is cut is read once more, up to where it was cut."""
    given = 0
    for reading in range(READINGS):
        samples = read_samples(shard, storage_options, None, most_in_a_sample(shard), rule)
        try:
            for sample in islice(samples, given, None):
                given += 1
                yield sample
            return
        except OSError as error:
            if reading + 1 == READINGS or not can_pass(error):
                raise
            LOG.warning("%s: %s; reading it again", shard.uri, error)


def changed(shard: str, what: str) -> ShardError:
    """That a shard is not the one that was annotated."""
    return ShardError(f"{shard}: {what}; run cambox annotate again")


Extent = tuple[int, int]
"""Where a file lies in an archive: its first byte, and how many it has."""


def files_of_images(shard: Shard, rule: ImageRule) -> dict[str, str | None]:
    """The URI of each sample's image, by key, of a chunk; None for a sample without an image."""
    files: dict[str, str | None] = {}
    both = zip(shard.files, shard.file_uris, strict=True)
    for common_key, group in groupby(both, key=lambda pair: file_key(pair[0].path)):
        by_suffix = {file_suffix(file.path): uri for file, uri in group}
        for key, suffix, _ in images_of(common_key, by_suffix, rule):
            files[key] = None if suffix is None else by_suffix.get(suffix)
    return files


def index_images(
    uri: str,
    storage_options: Mapping[str, Any] | None = None,
    rule: ImageRule = ANY_IMAGE,
) -> dict[str, Extent | None]:
    """The place of each sample's image, by key, in the order of the archive.

    Reads headers only and trusts them: whether the archive is whole was seen when it was
    annotated, and has to be compared with that by whoever uses the index.

    Returns:
        None for a sample without an image.

    Raises:
        ShardError: it is compressed, or no tar archive.
        OSError: the storage failed.
    """
    filesystem, path = locate(uri, storage_options)
    samples: dict[str, dict[str, Extent]] = defaultdict(dict)

    def scan() -> None:
        samples.clear()
        try:
            with (
                filesystem.open(path, "rb") as file,
                tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive,
            ):
                for member in archive:
                    if member.isreg() and (found := key_and_suffix(member.name)):
                        samples[found[0]][found[1]] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise ShardError(
                f"{uri}: {error}; only an uncompressed tar can be read in any order"
            ) from error

    from_storage(uri, scan)
    return {
        key: None if suffix is None else members[suffix]
        for common_key, members in samples.items()
        for key, suffix, _ in images_of(common_key, members, rule)
    }
