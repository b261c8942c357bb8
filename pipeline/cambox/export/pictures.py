"""Images as they are stored in an export: upright, because many readers of these formats do not
look at the EXIF orientation, and the boxes are those of the upright image."""

from __future__ import annotations

import cv2

from cambox.sources.decode import decode_image, is_upright

_JPEG_QUALITY = 95


def upright_file(data: bytes, suffix: str, max_pixels: int) -> tuple[bytes, str, bool]:
    """The file as it is, or, where an orientation is to be applied, encoded anew.

    Args:
        suffix: as in the shard; of a compound one (``left.jpg``) the last part counts.

    Returns:
        The file, its suffix, and whether it was turned: a JPEG stays one (quality 95), all else
        that is turned becomes a PNG.

    Raises:
        DecodeError: it is no image, or has to be turned and does not decode.
    """
    kind = suffix.rpartition(".")[2]
    if is_upright(data):
        return data, kind, False
    pixels = cv2.cvtColor(decode_image(data, max_pixels), cv2.COLOR_RGB2BGR)
    if kind in ("jpg", "jpeg"):
        _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    else:
        kind = "png"
        _, encoded = cv2.imencode(".png", pixels)
    return encoded.tobytes(), kind, True
