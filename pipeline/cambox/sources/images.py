"""Which of a sample's files is its image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
    """The encoded image of a sample, or None where it has none; see ``image_suffix``."""
    suffix = image_suffix(members)
    return None if suffix is None else members[suffix]


def image_suffix(suffixes: Iterable[str]) -> str | None:
    """Which of a sample's suffixes is that of its image; None where it has none.

    The first one in the order of ``IMAGE_SUFFIXES``. Where no suffix is one of them as it
    stands, compound ones count by their last part (``left.jpg``), the first in that same order,
    then by name.
    """
    present = sorted(suffixes)
    for suffix in IMAGE_SUFFIXES:
        if suffix in present:
            return suffix
    for suffix in IMAGE_SUFFIXES:
        for name in present:
            if name.endswith(f".{suffix}"):
                return name
    return None
