"""Decode samples to the network's size in threads, ahead of it, and keep their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import chain

import cv2
import numpy as np
import torch

from cambox.config import InputSettings
from cambox.sources.decode import DecodeError, SampleStatus, decode_image
from cambox.sources.decode_on_gpu import SquashedImage, squash_jpegs
from cambox.sources.labels import LabelError, read_labels
from cambox.sources.samples import Sample
from cambox.threads import Stopwatch, grouped, in_order

# Names of members are in it, which come from anywhere.
_MOST_OF_AN_ERROR = 10_000


@dataclass(frozen=True, slots=True)
class LoadedSample:
    """A sample as the network needs it.

    Attributes:
        status, error: ``ok`` and None, or what was wrong with the image or its labels; beside any
            status, that the sample has further images.
        width, height: of the upright original, in pixels; None where it could not be decoded.
        labels: the classes given with the sample, or None.
        pixels: (input height, input width, 3) uint8 RGB, or of another size where the image keeps
            its shape; None where there is no image.
    """

    key: str
    index: int
    status: SampleStatus
    error: str | None
    width: int | None
    height: int | None
    labels: tuple[int, ...] | None
    pixels: np.ndarray | None


@dataclass(frozen=True, slots=True)
class LoadRule:
    """What loading depends on.

    Attributes:
        input_height, input_width: of the network, in pixels; the whole image is squashed to it.
        class_count: that labels may count; None: as many as they like.
        cell: None; or an image keeps its shape, to the nearest cell of so many pixels, and its
            longer side becomes the input's.
        longest: None; or an image stays as it is, and is made smaller where its longer side is
            longer than this, in pixels.
        gpu: None; or the device that decodes the JPEGs that it can. Not with ``longest``.
    """

    settings: InputSettings
    input_height: int
    input_width: int
    class_count: int | None
    labels_wanted: bool
    cell: int | None = None
    longest: int | None = None
    gpu: torch.device | None = None

    def squashed_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an upright image as the network takes it."""
        if self.cell is None:
            return self.input_height, self.input_width
        return fitted((height, width), max(self.input_height, self.input_width), self.cell)

    def resized(self, image: np.ndarray) -> np.ndarray:
        """An image (h, w, 3) as it waits for the network."""
        if self.longest is None:
            return squash(image, *self.squashed_size(*image.shape[:2]))
        longer = max(image.shape[:2])
        if longer <= self.longest:
            return image
        scale = self.longest / longer
        height, width = (max(1, round(pixels * scale)) for pixels in image.shape[:2])
        return resize(image, height, width)


def load_ahead(
    samples: Iterable[Sample],
    rule: LoadRule,
    pool: Executor,
    together: int,
    ahead: int,
    watch: Stopwatch,
) -> Iterator[LoadedSample]:
    """Load samples in a pool of threads before they are asked for.

    Args:
        together: how many a thread takes at a time.
        ahead: about how many are loaded before they are asked for.
    """

    def load(group: list[Sample]) -> list[LoadedSample]:
        with watch.measure("decode"):
            return load_samples(group, rule)

    return chain.from_iterable(
        in_order(pool, load, grouped(samples, together), -(-ahead // together))
    )


def load_samples(group: Sequence[Sample], rule: LoadRule) -> list[LoadedSample]:
    """Load some samples, in their order."""
    if rule.gpu is None:
        return [load_sample(sample, rule) for sample in group]
    files = [None if one.image is None else one.members[one.image] for one in group]
    squashed = squash_jpegs(files, rule.squashed_size, rule.settings.max_pixels, rule.gpu)
    return [load_sample(sample, rule, one) for sample, one in zip(group, squashed, strict=True)]


def load_sample(
    sample: Sample, rule: LoadRule, squashed: SquashedImage | None = None
) -> LoadedSample:
    """Decode one sample's image and read its labels; a bad one is described, not raised.

    Args:
        squashed: its image, where it is decoded already.
    """
    labels, label_error = _labels(sample, rule)

    def loaded(
        status: SampleStatus, error: str | None, image: SquashedImage | None = None
    ) -> LoadedSample:
        height, width, pixels = image or (None, None, None)
        error = "; ".join(filter(None, (error, sample.remark)))[:_MOST_OF_AN_ERROR] or None
        return LoadedSample(sample.key, sample.index, status, error, width, height, labels, pixels)

    if sample.image is None:
        names = ", ".join(sorted(sample.members))
        wanted = rule.settings.image or "image"
        return loaded(SampleStatus.no_image, f"no {wanted} among the members: {names}")
    if squashed is None:
        try:
            image = decode_image(sample.members[sample.image], rule.settings.max_pixels)
        except DecodeError as error:
            return loaded(error.status, str(error))
        height, width = image.shape[:2]
        squashed = SquashedImage(height, width, rule.resized(image))
    if rule.labels_wanted and labels is None:
        return loaded(SampleStatus.no_label, label_error, squashed)
    return loaded(SampleStatus.ok, None, squashed)


def fitted(size: tuple[int, int], side: int, cell: int) -> tuple[int, int]:
    """A size (height, width) at which an image keeps its shape, in whole cells.

    >>> fitted((480, 640), 448, 32)
    (352, 448)

    Args:
        side: of the result, the longer one, to the nearest cell.
        cell: in pixels.
    """
    scale = side / max(size)
    height, width = (max(cell, round(pixels * scale / cell) * cell) for pixels in size)
    return height, width


def resize(
    image: np.ndarray, height: int, width: int, into: np.ndarray | None = None
) -> np.ndarray:
    """An image (h, w, 3) uint8 at another size; of one that shrinks each pixel counts.

    Args:
        into: (height, width, 3) uint8, where to write it; None: new memory.
    """
    way = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), dst=into, interpolation=way))


def squash(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize the whole image, whatever its shape; shrinking averages, so that nothing aliases.

    As Pillow does it (within 1 of 255), with which most classifiers were trained, in a quarter of
    the time of OpenCV's ``INTER_AREA``. In integers, so the number of threads does not matter.

    Args:
        image: (h, w, 3) uint8.

    Returns:
        (height, width, 3) uint8.
    """
    # The batch's stride tells torch that the channels lie last, here and in the result.
    pixels = torch.from_numpy(image.reshape(1, *image.shape).transpose(0, 3, 1, 2))
    # What F.interpolate with antialias calls. Each operation of torch lets go of the interpreter's
    # lock and waits for it again; with seven of them sixteen threads waited more than they worked.
    resized = torch.ops.aten._upsample_bilinear2d_aa(pixels, [height, width], False)
    squashed: np.ndarray = resized.numpy()[0].transpose(1, 2, 0)
    return squashed


def _labels(sample: Sample, rule: LoadRule) -> tuple[tuple[int, ...] | None, str | None]:
    try:
        labels = read_labels(sample.members, rule.settings.labels, sample.image)
    except LabelError as error:
        return None, str(error)
    if labels is None:
        return None, f"no {rule.settings.labels} with the sample"
    if rule.class_count is not None and any(label >= rule.class_count for label in labels):
        return None, f"class {max(labels)} is beyond the model's {rule.class_count} classes"
    return labels, None
