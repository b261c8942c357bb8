"""The usual JPEGs decoded and resized by a GPU, several at once; the rest is for the CPU."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ImageFile
from torchvision.io import ImageReadMode, decode_jpeg

from cambox.sources.decode import DecodeError, read_header
from cambox.sources.orientation import orientation_of, turned
from cambox.threads import grouped

# A GPU holds all images of a group at once; larger ones are rare, and well decoded by the CPU.
MOST_PIXELS = 20_000_000
# Of images that are resized together, as floats.
PIXELS_AT_ONCE = 1 << 23
END_OF_IMAGE = b"\xff\xd9"
# EXIF's orientations that swap height and width.
LYING = frozenset((5, 6, 7, 8))
_STREAMS = threading.local()

Size = tuple[int, int]
"""Height and width, in pixels."""


class SquashedImage(NamedTuple):
    """An image at the network's input.

    Attributes:
        height, width: of the upright original, in pixels.
        pixels: (h, w, 3) uint8 RGB, upright.
    """

    height: int
    width: int
    pixels: np.ndarray


def squash_jpegs(
    files: Sequence[bytes | None],
    size_of: Callable[[int, int], Size],
    max_pixels: int,
    device: torch.device,
) -> list[SquashedImage | None]:
    """Decode the JPEGs that a GPU can, all together, and resize each of them there.

    Pixels differ from the CPU's decoder by 0.2 of 255 on average (measured on photographs with
    nvJPEG), and by up to 50 at coloured edges, whose colours it interpolates otherwise.

    Args:
        files: None where a sample has none.
        size_of: (height, width) to resize an upright image of a height and width to.
        max_pixels: the largest width x height that is decoded.
        device: an NVIDIA GPU; a CPU as well, for tests.

    Returns:
        None for each file that is no baseline JPEG of grey or YCbCr, is cut, or is too large; and
        for all where the decoder refuses one of them.
    """
    headers = [None if data is None else _suitable(data, max_pixels) for data in files]
    chosen = [(place, one) for place, one in enumerate(headers) if one is not None]
    squashed: list[SquashedImage | None] = [None] * len(files)
    if not chosen:
        return squashed
    encoded = [
        torch.from_numpy(np.frombuffer(files[place] or b"", np.uint8).copy()) for place, _ in chosen
    ]
    orientations = [orientation_of(header) for _, header in chosen]
    try:
        with _own_stream(device):
            images = decode_jpeg(encoded, ImageReadMode.RGB, device=device)
            pixels = _resized(images, orientations, size_of)
    except RuntimeError:
        # Memory that ran out is one as well. Nothing is lost: the CPU says what is wrong.
        return squashed
    for (place, _), image, orientation, stored in zip(
        chosen, images, orientations, pixels, strict=True
    ):
        height, width = _upright(image, orientation)
        squashed[place] = SquashedImage(height, width, turned(stored, orientation))
    return squashed


def _own_stream(device: torch.device) -> AbstractContextManager[object]:
    """Of this thread: in the common one its images would wait behind the network's batches."""
    if device.type != "cuda":
        return nullcontext()
    if not hasattr(_STREAMS, "own"):
        _STREAMS.own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return torch.cuda.stream(_STREAMS.own)


def _suitable(data: bytes, max_pixels: int) -> ImageFile.ImageFile | None:
    """The header of a file for the GPU, else None."""
    try:
        header = read_header(data, max_pixels)
    except DecodeError:
        return None
    suits = (
        header.format == "JPEG"
        and header.mode in ("RGB", "L")
        and not header.info.get("progressive")
        and header.width * header.height <= min(max_pixels, MOST_PIXELS)
        and data.rstrip(b"\0").endswith(END_OF_IMAGE)
    )
    return header if suits else None


@torch.inference_mode()
def _resized(
    images: Sequence[torch.Tensor],
    orientations: Sequence[int],
    size_of: Callable[[int, int], Size],
) -> list[np.ndarray]:
    """(h, w, 3) uint8 each, as they are stored, of images (3, h, w) uint8 on the device."""
    alike: dict[tuple[Size, Size], list[int]] = defaultdict(list)
    for place, (image, orientation) in enumerate(zip(images, orientations, strict=True)):
        height, width = size_of(*_upright(image, orientation))
        stored = (width, height) if orientation in LYING else (height, width)
        alike[(image.shape[1], image.shape[2]), stored].append(place)
    resized: dict[Size, list[torch.Tensor]] = defaultdict(list)
    places_of: dict[Size, list[int]] = defaultdict(list)
    for ((height, width), stored), places in alike.items():
        # Those of one size at once: each operation lets go of the interpreter's lock.
        for part in grouped(places, max(1, PIXELS_AT_ONCE // (height * width))):
            together = torch.stack([images[place] for place in part]).float()
            resized[stored].append(
                F.interpolate(
                    together, stored, mode="bilinear", align_corners=False, antialias=True
                )
            )
            places_of[stored] += part
    pixels: list[np.ndarray] = [np.empty(0)] * len(images)
    # Waited for once for each size, not once for each image.
    for stored, parts in resized.items():
        whole = torch.cat(parts).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        for place, one in zip(places_of[stored], whole, strict=True):
            pixels[place] = one
    return pixels


def _upright(image: torch.Tensor, orientation: int) -> Size:
    """Height and width of an image (3, h, w) once it is turned."""
    height, width = image.shape[1:]
    return (width, height) if orientation in LYING else (height, width)
