"""The bytes of an image file, to its pixels."""

from __future__ import annotations

import enum
import io
import warnings

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from cambox.sources.formats import PILLOW_FORMATS

# OpenCV 5.0 swaps red and blue in an AVIF with transparency, and multiplies the colours of a TIFF
# by it.
_ONLY_PILLOW = (("AVIF", "RGBA"), ("TIFF", "RGBA"))

# EXIF's tag, and its values but for the first, which says that nothing is to be done.
_ORIENTATION = 0x0112
_TURNED = range(2, 9)

# Both settings are of the whole process, because the libraries offer no other that is safe with
# threads: a damaged image becomes a status in the output, not a line on the terminal each.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")


class SampleStatus(enum.StrEnum):
    """What became of a sample; the value is what the output says."""

    ok = "ok"
    unreadable = "unreadable"
    too_large = "too_large"
    no_image = "no_image"
    no_label = "no_label"


class DecodeError(ValueError):
    """An image gives no pixels; ``status`` is unreadable or too_large, the text says why."""

    def __init__(self, status: SampleStatus, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def decode_image(data: bytes, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB, upright (the EXIF orientation is applied).

    Grey, palette, CMYK and 16-bit images are converted, transparency is dropped, and of several
    frames the first is taken.

    Args:
        data: the whole file.
        max_pixels: the largest width x height that is decoded.

    Raises:
        DecodeError: ``too_large``, told from the header before anything is decoded; or
            ``unreadable``: empty, not an image, or not to be decoded (cut, damaged, a rare kind).
    """
    if not data:
        raise DecodeError(SampleStatus.unreadable, "the file is empty (zero bytes)")
    header = _read_header(data)
    what = f"{header.format} of {header.width} x {header.height} pixels"
    if header.width * header.height > max_pixels:
        raise DecodeError(SampleStatus.too_large, f"{what}, the limit is {max_pixels} in all")
    decode = _by_pillow if (header.format, header.mode) in _ONLY_PILLOW else _by_opencv
    try:
        pixels = decode(data)
    except MemoryError:
        # This machine's trouble, not the image's.
        raise
    except Exception as error:
        # Whatever a decoder trips over in bytes that came from anywhere.
        reason = f"{what} can not be decoded: cut, damaged or of a rare kind"
        raise DecodeError(SampleStatus.unreadable, reason) from error
    return pixels


def is_upright(data: bytes) -> bool:
    """Whether an image's pixels are stored as they are meant to be seen.

    Args:
        data: the whole file.

    Raises:
        DecodeError: it is not an image, or its header is cut or damaged.
    """
    header = _read_header(data)
    try:
        # What is no orientation is passed over by both libraries.
        return header.getexif().get(_ORIENTATION) not in _TURNED
    except Exception as error:
        # The same of Pillow's parsers.
        reason = f"the EXIF data are damaged ({type(error).__name__}: {error})"
        raise DecodeError(SampleStatus.unreadable, reason) from error


def _by_opencv(data: bytes) -> npt.NDArray[np.uint8]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        raise
    if pixels is None:
        raise ValueError("OpenCV gives no image and no reason")
    return np.asarray(pixels, dtype=np.uint8)


def _by_pillow(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _read_header(data: bytes) -> Image.Image:
    """The image, of which nothing but the header is read yet."""
    try:
        return Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
    except Image.DecompressionBombError as error:
        raise DecodeError(SampleStatus.too_large, str(error)) from error
    except UnidentifiedImageError as error:
        raise DecodeError(SampleStatus.unreadable, "not an image of a known format") from error
    except Exception as error:
        # The same of Pillow's parsers.
        reason = f"the header is cut or damaged ({type(error).__name__}: {error})"
        raise DecodeError(SampleStatus.unreadable, reason) from error
