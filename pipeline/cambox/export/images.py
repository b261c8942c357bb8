"""The images of an export: their names, and their files as readers expect them, upright."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2

from cambox.console import one_line
from cambox.export.addresses import address_below, addresses_of
from cambox.export.writer import Exported, FileNames
from cambox.sources.decode import DecodeError, decode_image, is_upright
from cambox.sources.shards import Shard
from cambox.training.labelled import TrainingSet
from cambox.training.shards import encoded_images

ASSUMED_SUFFIX = "jpg"
_JPEG = b"\xff\xd8\xff"
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class NotUpright:
    """An image that has to be turned, or of which nobody can tell, and why it is not."""

    key: str
    shard: str
    reason: str

    def __str__(self) -> str:
        return f"left out: {self.key} of {self.shard}: {self.reason}"


def exported_images(
    training_set: TrainingSet,
    index: int,
    shards: Sequence[Shard] | None,
    names: FileNames,
    root: str | None = None,
) -> Iterator[Exported | NotUpright]:
    """The images of one file, with their bytes where the shards are given.

    Args:
        root: where the files are that the export points at, see ``addresses_of``; of extracted
            ones the place that they will be put to.
    """
    if shards is None:
        recipe = training_set.recipe
        address_of = None
        if root is not None:
            shard = recipe.files[index].shard
            address_of = addresses_of(shard, recipe.image_rule, root, ASSUMED_SUFFIX)
        for part in training_set.read(index):
            for image in part:
                address = None if address_of is None else address_of(image.key)
                name = names.name(image.key, image.shard)
                yield Exported(image, name, ASSUMED_SUFFIX, address=address)
        return
    for image, suffix, stored in encoded_images(training_set, index, shards[index]):
        try:
            data, suffix, turned = _upright(stored, suffix, training_set.max_pixels)
        except DecodeError as error:
            yield NotUpright(image.key, image.shard, one_line(error))
        else:
            exported = Exported(image, names.name(image.key, image.shard), suffix, data, turned)
            if root is not None:
                exported = replace(exported, address=address_below(root, exported.file_name))
            yield exported


def _upright(data: bytes, suffix: str, max_pixels: int) -> tuple[bytes, str, bool]:
    """The file as it is, or, where an orientation is to be applied, encoded anew.

    Many readers of these formats do not look at the orientation, and the boxes are those of
    the upright image.

    Args:
        suffix: as in the shard; of a compound one (``left.jpg``) the last part counts.

    Returns:
        The file, its suffix, ``jpg`` for every JPEG, and whether it was turned: a JPEG stays one
        (quality 95), all else that is turned becomes a PNG.

    Raises:
        DecodeError: it is no image, or has to be turned and does not decode.
    """
    is_jpeg = data.startswith(_JPEG)
    kind = ASSUMED_SUFFIX if is_jpeg else suffix.rpartition(".")[2]
    if is_upright(data, max_pixels):
        return data, kind, False
    pixels = cv2.cvtColor(decode_image(data, max_pixels), cv2.COLOR_RGB2BGR)
    if is_jpeg:
        _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    else:
        kind = "png"
        _, encoded = cv2.imencode(".png", pixels)
    return encoded.tobytes(), kind, True
