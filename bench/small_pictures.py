"""A small picture as a file of each kind that Pillow writes and cambox reads."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ORIENTATION, TURNED = 0x0112, 6
Options = dict[str, Any]


def pictures() -> dict[str, bytes]:
    """The files, by what they are; the same each time."""
    grain = np.random.default_rng(0).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    image = Image.fromarray(grain, "RGBA").resize((61, 45), Image.Resampling.BICUBIC)
    files = {}
    for what, kind, mode, options in _kinds():
        buffer = io.BytesIO()
        _in(mode, image).save(buffer, kind, **options)
        files[what] = buffer.getvalue()
    files["PNG interlaced"] = _interlaced(image)
    return files


def _in(mode: str, image: Image.Image) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def _kinds() -> Iterator[tuple[str, str, str, Options]]:
    """What it is, Pillow's name, the mode, and options of saving."""
    exif, text = Image.Exif(), PngInfo()
    exif[ORIENTATION] = TURNED
    text.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="{TURNED}"/>', zip=True)
    yield from (
        ("JPEG", "JPEG", "RGB", {}),
        ("JPEG 4:4:4 restarts", "JPEG", "RGB", {"subsampling": 0, "restart_marker_blocks": 2}),
        ("JPEG progressive", "JPEG", "RGB", {"progressive": True, "quality": 90}),
        ("JPEG grey", "JPEG", "L", {}),
        ("JPEG CMYK", "JPEG", "CMYK", {}),
        ("JPEG turned", "JPEG", "RGB", {"exif": exif}),
        ("PNG", "PNG", "RGB", {}),
        ("PNG transparent", "PNG", "RGBA", {}),
        ("PNG 16 bits", "PNG", "I;16", {}),
        ("PNG palette", "PNG", "P", {"bits": 4, "transparency": 3}),
        ("PNG 1 bit", "PNG", "1", {}),
        ("PNG turned", "PNG", "RGB", {"exif": exif}),
        ("PNG of text", "PNG", "RGB", {"pnginfo": text}),
        ("WebP", "WEBP", "RGB", {}),
        ("WebP lossless", "WEBP", "RGBA", {"lossless": True}),
        ("WebP turned", "WEBP", "RGBA", {"exif": exif}),
        ("GIF", "GIF", "P", {}),
        ("GIF interlaced", "GIF", "P", {"interlace": 1, "transparency": 2}),
        ("BMP", "BMP", "RGB", {}),
        ("BMP palette", "BMP", "P", {}),
        ("DIB", "DIB", "RGBA", {}),
        ("PPM", "PPM", "RGB", {}),
        ("PGM 16 bits", "PPM", "I;16", {}),
        ("PBM", "PPM", "1", {}),
        ("AVIF", "AVIF", "RGB", {}),
        ("AVIF turned", "AVIF", "RGBA", {"exif": exif}),
        ("JPEG 2000", "JPEG2000", "RGB", {}),
        ("JPEG 2000 stream", "JPEG2000", "RGBA", {"no_jp2": True}),
        ("QOI", "QOI", "RGBA", {}),
        ("SGI", "SGI", "RGB", {}),
        ("TGA", "TGA", "RGBA", {"compression": "tga_rle"}),
        ("ICO", "ICO", "RGBA", {}),
    )
    for mode in ("RGB", "L", "1", "I;16", "CMYK"):
        yield f"TIFF {mode}", "TIFF", mode, {}
    for compression in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd", "lzma"):
        yield f"TIFF {compression}", "TIFF", "RGB", {"compression": compression}
    yield "TIFF group4", "TIFF", "1", {"compression": "group4"}
    frame = Image.linear_gradient("L").resize((61, 45)).convert("RGB")
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        yield f"{kind} of frames", kind, "RGB", {"save_all": True, "append_images": [frame]}


def _interlaced(image: Image.Image) -> bytes:
    """In Adam7's seven passes, which Pillow reads and does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    pixels = np.asarray(image.convert("RGB"))
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    parts = [pixels[top::down, left::right] for top, left, down, right in (*passes, (1, 0, 2, 1))]
    rows = b"".join(b"\0" + row.tobytes() for part in parts for row in part)
    start = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", start)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
