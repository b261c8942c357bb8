"""Which of a sample's files is its image."""

from __future__ import annotations

from collections.abc import Mapping

IMAGE_SUFFIXES = (
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bmp",
    "tif",
    "tiff",
    "gif",
    "ppm",
    "pgm",
    "jp2",
    "avif",
)


def image_member(members: Mapping[str, bytes]) -> bytes | None:
    """The encoded image of a sample, or None where it has none.

    The first suffix in the order of ``IMAGE_SUFFIXES``. Where no suffix is one of them as it
    stands, compound ones count by their last part (``left.jpg``), the first in that same order,
    then by name.
    """
    for suffix in IMAGE_SUFFIXES:
        if suffix in members:
            return members[suffix]
    for suffix in IMAGE_SUFFIXES:
        for name in sorted(members):
            if name.endswith(f".{suffix}"):
                return members[name]
    return None
