"""Which way up a picture is stored, and its pixels turned upright.

For every format it is read once, by Pillow, and applied here: OpenCV does not know the rotation of
an AVIF, a WebP's EXIF data with a prefix, or an orientation that only the XMP data note.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

_TAG = 0x0112
# EXIF's values but for the first, which says that nothing is to be done: whether rows become
# columns, and then the axis (OpenCV's code) around which the picture is flipped.
_TURNS: Mapping[int, tuple[bool, int | None]] = {
    2: (False, 1),
    3: (False, -1),
    4: (False, 0),
    5: (True, None),
    6: (True, 1),
    7: (True, -1),
    8: (True, 0),
}
# How the chunks of a PNG begin that can hold an orientation.
_PNG_NOTES = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")


def orientation_of(image: Image.Image) -> int:
    """EXIF's number of a picture's orientation: 1 (upright) to 8.

    From its EXIF data, its XMP data, or an AVIF's own properties, in Pillow's order. Data that are
    damaged say nothing: the pixels are whole.

    Args:
        image: opened; of a PNG with ``notes_follow_pixels``, and of a TIFF that Pillow decodes
            (and so turns), loaded.
    """
    try:
        # Not PNG's own method, which decodes the pixels to see what follows them.
        value = Image.Image.getexif(image).get(_TAG, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001
        # Whatever Pillow's parsers trip over in bytes that came from anywhere.
        return 1
    return next((number for number in _TURNS if number == value), 1)


def png_chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a PNG: kind, start, and where its data end as it says; those begun."""
    start = 8  # the signature
    while start + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, start)
        end = start + 8 + length
        yield kind, start, end
        start = end + 4


def notes_follow_pixels(png: bytes) -> bool:
    """Whether a PNG may note its orientation after its pixels, where no header reader looks."""
    last = png.rfind(b"IDAT")
    end = last + len(b"IDAT") + int.from_bytes(png[last - 4 : last], "big")
    return any(png.find(note, end) >= 0 for note in _PNG_NOTES)


def turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """The picture (H, W, 3), or (W, H, 3) where it lay on its side, upright."""
    transposed, flip = _TURNS.get(orientation, (False, None))
    if transposed:
        pixels = np.asarray(cv2.transpose(pixels), dtype=np.uint8)
    return pixels if flip is None else np.asarray(cv2.flip(pixels, flip), dtype=np.uint8)
