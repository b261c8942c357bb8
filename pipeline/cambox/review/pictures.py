"""Pictures of some samples, read again from their shards; where that fails, the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from cambox.errors import RequestError, ShardError
from cambox.sources.decode import DecodeError, decode_image
from cambox.sources.images import image_member
from cambox.sources.listing import describe
from cambox.sources.samples import read_samples
from cambox.sources.shards import Shard
from cambox.sources.storage import fingerprint, locate, storage_failures


@dataclass(frozen=True)
class Wanted:
    """A sample whose picture is wanted, and the size that its row says, in pixels."""

    key: str
    width: int
    height: int


@dataclass(frozen=True)
class ShownPicture:
    """A picture, or why there is none.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright; None where there is none.
        problem: one line, None where there is a picture.
    """

    key: str
    pixels: np.ndarray | None
    problem: str | None


def read_pictures(
    shard: Shard, wanted: Mapping[str, Wanted], max_pixels: int
) -> Iterator[ShownPicture]:
    """The pictures of some samples of a shard, each once; read no further than the last of them.

    A picture whose size is not that of its row is another picture than the boxes are of.

    Args:
        wanted: by key.
    """
    missing = dict(wanted)
    problem = "the shard has no sample of this key any more"
    try:
        for sample in read_samples(shard):
            if sample.key in missing:
                yield _picture(missing.pop(sample.key), sample.members, max_pixels)
            if not missing:
                return
    except (OSError, RequestError, ShardError) as error:
        problem = f"the shard cannot be read: {' '.join(str(error).split())}"
    for key in missing:
        yield ShownPicture(key, None, problem)


def has_changed(shard: Shard) -> bool:
    """Whether the storage has another state of the shard now; False where it cannot be asked."""
    try:
        with storage_failures(shard.uri):
            (info,) = describe([locate(shard.uri)], lists=False)
    except (OSError, RequestError):
        # Reading it says so, too, and better.
        return False
    return info is not None and fingerprint(info) != shard.fingerprint


def _picture(wanted: Wanted, members: Mapping[str, bytes], max_pixels: int) -> ShownPicture:
    data = image_member(members)
    if data is None:
        return ShownPicture(wanted.key, None, "the sample has no image any more")
    try:
        pixels = decode_image(data, max_pixels)
    except DecodeError as error:
        return ShownPicture(wanted.key, None, str(error))
    height, width = pixels.shape[:2]
    if (width, height) != (wanted.width, wanted.height):
        problem = (
            f"the shard now has an image of {width} x {height} pixels here, and the row is of one "
            f"of {wanted.width} x {wanted.height}"
        )
        return ShownPicture(wanted.key, None, problem)
    return ShownPicture(wanted.key, pixels, None)


def within(pixels: np.ndarray, side: int) -> np.ndarray:
    """The picture, shrunk where its longer side has more than ``side`` pixels."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shrunk: np.ndarray = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return shrunk


def jpeg(pixels: np.ndarray, most_bytes: int) -> bytes:
    """The picture as a JPEG file, at a lower quality where it would be larger."""
    data = b""
    for quality in (82, 70, 55, 40, 25):
        _, encoded = cv2.imencode(
            ".jpg", np.ascontiguousarray(pixels[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        data = encoded.tobytes()
        if len(data) <= most_bytes:
            break
    return data
