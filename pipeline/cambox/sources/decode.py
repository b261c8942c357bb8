"""The bytes of an image file, to its pixels."""

from __future__ import annotations

import enum
import io
import warnings
import zlib

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from cambox.sources.formats import PILLOW_FORMATS, is_heic
from cambox.sources.orientation import notes_follow_pixels, orientation_of, png_chunks, turned

# Both settings are of the whole process, because the libraries offer no other that is safe with
# threads: a damaged image becomes a status in the output, not a line on the terminal each.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")

# The most that decoders were seen to hold for a pixel of the result, and what they need besides.
_BYTES_A_PIXEL, _BYTES_BESIDE = 24, 64 << 20
# A WebP, of which the header alone makes room for all pixels, has no more: 14 bits a side.
_MOST_FOR_A_HEADER = (1 << 14) ** 2


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
    """Decode an image file to (H, W, 3) uint8 RGB, upright (``sources/orientation.py``).

    Grey, palette, CMYK and 16-bit images are converted, transparency is dropped. Of several frames
    the first is taken, of an animated PNG the one that is shown where animations are not.

    Args:
        data: the whole file.
        max_pixels: the largest width x height that is decoded.

    Raises:
        DecodeError: ``too_large``, told from the header before anything is decoded; or
            ``unreadable``: empty, not an image, or not to be decoded (cut, damaged, a rare kind).
        MemoryError: there was not the memory to tell; not the image's fault.
    """
    if not data:
        raise DecodeError(SampleStatus.unreadable, "the file is empty (zero bytes)")
    try:
        return _decoded(data, max_pixels)
    except DecodeError as error:
        if error.status is SampleStatus.too_large:
            raise
    # Memory that others took may have been back when it was asked for. Damage is the same again.
    return _decoded(data, max_pixels)


def _decoded(data: bytes, max_pixels: int) -> npt.NDArray[np.uint8]:
    header = read_header(data, max_pixels)
    what = f"{header.format} of {header.width} x {header.height} pixels"
    if header.width * header.height > max_pixels:
        raise _too_large(what, max_pixels)
    try:
        pixels = _by_opencv(data, header) if _is_for_opencv(data, header) else None
        return _by_pillow(data, header) if pixels is None else pixels
    except MemoryError:
        # This machine's trouble, not the image's.
        raise
    except Exception as error:
        # Whatever a decoder trips over in bytes that came from anywhere.
        _require_memory(header.width * header.height)
        reason = f"{what} can not be decoded: cut, damaged or of a rare kind"
        raise DecodeError(SampleStatus.unreadable, reason) from error


def is_upright(data: bytes, max_pixels: int) -> bool:
    """Whether an image's pixels are stored as they are meant to be seen, as decoding takes it.

    Args:
        data: the whole file.

    Raises:
        DecodeError: it is not an image, or its header is cut or damaged.
    """
    header = read_header(data, max_pixels)
    try:
        if header.format == "PNG" and not _is_apng(header) and notes_follow_pixels(data):
            header.load()
    except MemoryError:
        raise
    except Exception as error:
        raise DecodeError(SampleStatus.unreadable, f"{header.format}: {error}") from error
    return orientation_of(header) == 1


def _is_for_opencv(data: bytes, header: ImageFile.ImageFile) -> bool:
    """Whether OpenCV is asked first: for the usual kinds, where it is quicker and gives the same.

    Elsewhere it has ways of its own: the background's colour in a GIF, 16-bit BMP too dark, JPEG
    2000 of wrong colours, transparency mixed into TIFF and AVIF, a PPM's comment as its size.
    """
    match header.format:
        case "JPEG" | "MPO":
            return True
        case "PNG":
            # Of a cut one OpenCV's libpng prints a line each.
            is_cut = data[-8:-4] != b"IEND"
            # OpenCV makes room for what a chunk declares before it looks for it.
            return not (
                is_cut
                or _is_apng(header)
                or any(end > len(data) for _, _, end in png_chunks(data))
                or notes_follow_pixels(data)
            )
        case "WEBP":
            return not getattr(header, "is_animated", False)
        case "TIFF":
            # OpenCV would turn it, whatever it is told.
            return header.mode not in ("RGBA", "LAB") and orientation_of(header) == 1
    return False


def _by_opencv(data: bytes, header: ImageFile.ImageFile) -> npt.NDArray[np.uint8] | None:
    """Upright pixels; None where OpenCV gives up, or reads another size than is promised."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        pixels = None
    if pixels is None:
        _require_memory(header.width * header.height)
        return None
    if pixels.shape[:2] != (header.height, header.width):
        return None
    return turned(np.asarray(pixels, dtype=np.uint8), orientation_of(header))


def _by_pillow(data: bytes, image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    """Upright pixels; what is cut or known to be damaged is refused."""
    if image.format == "PNG" and not _pixels_are_sound(data):
        raise ValueError("the checksum of the pixels does not hold")
    if _is_apng(image):
        # Only the default image is wanted; what follows it is the animation, sound or not.
        image.load_end = lambda: None  # type: ignore[method-assign]
    image.load()
    if image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I"):
        # Converting would clip at 255.
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        pixels = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    else:
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return turned(pixels, orientation_of(image))


def _pixels_are_sound(png: bytes) -> bool:
    """Whether the checksums of a PNG's pixels hold, as far as they are there: Pillow skips them."""
    for kind, start, end in png_chunks(png):
        checksum = zlib.crc32(memoryview(png)[start + 4 : end]).to_bytes(4, "big")
        if kind == b"IDAT" and end <= len(png) and not checksum.startswith(png[end : end + 4]):
            return False
    return True


def _require_memory(pixels: int) -> None:
    """See that memory for an image can be had just now; none of it is touched.

    Most decoders have one word for lack of memory and for damage.

    Raises:
        MemoryError: it cannot.
    """
    np.empty(_BYTES_BESIDE + _BYTES_A_PIXEL * pixels, np.uint8)


def _is_apng(image: ImageFile.ImageFile) -> bool:
    return image.get_format_mimetype() == "image/apng"


def read_header(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """The image, of which nothing but the header is read yet."""
    # Pillow refuses twice its limit, which is of the whole process: raised where a setting asks for
    # more, and never lowered.
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)
    formats = _formats(data)
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise _too_large("an image of too many pixels", max_pixels) from error
    except UnidentifiedImageError as error:
        raise DecodeError(SampleStatus.unreadable, "not an image of a known format") from error
    except MemoryError:
        raise
    except Exception as error:
        # The same of Pillow's parsers.
        _require_memory(min(max_pixels, _MOST_FOR_A_HEADER))
        reason = f"the header is cut or damaged ({type(error).__name__}: {error})"
        raise DecodeError(SampleStatus.unreadable, reason) from error


def _formats(data: bytes) -> tuple[str, ...]:
    """Pillow's names of what a file may be."""
    if not is_heic(data):
        return PILLOW_FORMATS
    try:
        # Nobody waits for it who has none of these.
        from pillow_heif import register_heif_opener
    except ImportError as error:
        reason = "HEIC is read where pillow-heif is: pip install 'cambox[heic]'"
        raise DecodeError(SampleStatus.unreadable, reason) from error
    register_heif_opener()
    return ("HEIF",)


def _too_large(what: str, max_pixels: int) -> DecodeError:
    reason = f"{what}, the limit is {max_pixels} in all (input.max_pixels)"
    return DecodeError(SampleStatus.too_large, reason)
