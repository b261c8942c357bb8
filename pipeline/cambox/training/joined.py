"""A published file and its shard, joined by key: the images that a selection takes, with bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cambox.errors import ShardError
from cambox.sources.images import image_suffix
from cambox.sources.retry import can_pass
from cambox.sources.samples import Sample, read_samples
from cambox.sources.shards import Shard
from cambox.training.labelled import LabelledImage
from cambox.training.training_set import TrainingSet

LOG = logging.getLogger(__name__)

READINGS = 2


@dataclass(frozen=True)
class EncodedImage:
    """An image of a shard with its boxes.

    Attributes:
        suffix: of its file in the shard, in lower case (``jpg``, ``left.jpg``).
        data: the file.
    """

    image: LabelledImage
    suffix: str
    data: bytes


def joined(
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
    for sample in _samples(shard, storage_options):
        samples += 1
        image = images.pop(sample.key, None)
        if image is None:
            continue
        suffix = image_suffix(sample.members)
        if suffix is None:
            raise changed(shard.uri, f"the sample {sample.key!r} has no image any more")
        yield EncodedImage(image, suffix, sample.members[suffix])
    if images:
        raise changed(shard.uri, f"the sample {next(iter(images))!r} is gone")
    if samples != training_set.files[index].rows:
        raise changed(
            shard.uri, f"it has {samples} samples and had {training_set.files[index].rows}"
        )


def _samples(shard: Shard, storage_options: Mapping[str, Any] | None) -> Iterator[Sample]:
    """The samples of a shard; a stream that is cut is read once more, up to where it was cut."""
    given = 0
    for reading in range(READINGS):
        try:
            for sample in islice(read_samples(shard, storage_options), given, None):
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
