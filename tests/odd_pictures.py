"""Over a thousand small image files as libraries and cameras write them, and some cut short.

Modes, depths, subsampling, interlacing, animations, compressions, every orientation in every place
where it can be noted; made anew from a seed.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from makers import ORIENTATION

ORIENTATIONS = range(1, 9)
MODES = (
    *("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"),
    "I;16",
)
# Pillow's name, and how the names of such files end.
KINDS = {
    "AVIF": "avif",
    "BMP": "bmp",
    "DIB": "dib",
    "GIF": "gif",
    "JPEG": "jfif",
    "JPEG2000": "j2k",
    "PNG": "png",
    "PPM": "pnm",
    "QOI": "qoi",
    "SGI": "sgi",
    "TGA": "tga",
    "TIFF": "tiff",
    "WEBP": "webp",
}


class OddPicture(NamedTuple):
    """A file, the end of its name, and what it is."""

    what: str
    suffix: str
    data: bytes


def picture(
    chance: np.random.Generator, mode: str = "RGB", size: tuple[int, int] | None = None
) -> Image.Image:
    """Smooth colours, of a size from 1 x 1 to 48 x 48 where none is given."""
    grain = chance.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    width, height = size or chance.integers(1, 49, 2).tolist()
    image = Image.fromarray(grain, "RGBA").resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode) if mode in ("RGBA", "LA") else image.convert("RGB").convert(mode)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    """EXIF data that note an orientation."""
    noted = Image.Exif()
    noted[ORIENTATION] = orientation
    return noted.tobytes()


def xmp(orientation: int) -> str:
    """XMP data that note an orientation."""
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def noted(image: Image.Image, kind: str, where: str, orientation: int) -> bytes:
    """A file with an orientation in one of the places where it can be.

    Args:
        where: exif, prefixed (WebP's EXIF data as old writers began them), xmp, irot (AVIF's own
            property, which Pillow writes for EXIF's), late (after a PNG's pixels) or raw (a PNG's
            text).
    """
    if where == "xmp" and kind == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp(orientation), zip=orientation % 2 == 0)
        return encode(image, kind, pnginfo=info)
    if where == "xmp":
        return encode(image, kind, xmp=xmp(orientation).encode())
    data = exif(orientation)
    if where == "prefixed":
        return encode(image, kind, exif=b"Exif\0\0" + data.removeprefix(b"Exif\0\0"))
    if where == "raw":
        info = PngInfo()
        info.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n", zip=True)
        return encode(image, kind, pnginfo=info)
    if where == "late":
        plain = encode(image, kind)
        end = plain.index(b"IEND") - 4
        return plain[:end] + png_chunk(b"eXIf", data.removeprefix(b"Exif\0\0")) + plain[end:]
    return encode(image, kind, exif=data)


PLACES = (
    *(("JPEG", "exif"), ("JPEG", "xmp"), ("MPO", "exif"), ("TIFF", "exif"), ("AVIF", "irot")),
    *(("WEBP", "exif"), ("WEBP", "prefixed"), ("WEBP", "xmp")),
    *(("PNG", "exif"), ("PNG", "xmp"), ("PNG", "late"), ("PNG", "raw")),
)
"""Kinds, and where they can note an orientation."""


def interlaced_png(image: Image.Image) -> bytes:
    """In Adam7's seven passes, which Pillow reads and does not write."""
    pixels = np.asarray(image.convert("RGB"))
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    rows = bytearray()
    for top, left, down, right in (*passes, (1, 0, 2, 1)):
        part = pixels[top::down, left::right]
        rows += b"".join(b"\0" + row.tobytes() for row in part if row.size)
    start = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", start)
        + png_chunk(b"IDAT", zlib.compress(bytes(rows)))
        + png_chunk(b"IEND", b"")
    )


def bmp_of_16_bits(chance: np.random.Generator, masks: tuple[int, ...]) -> bytes:
    """Five or six bits a colour."""
    width, height = 2 * chance.integers(1, 20), int(chance.integers(1, 30))
    body = chance.integers(0, 256, 2 * width * height, dtype=np.uint8).tobytes()
    head = struct.pack("<IiiHHII16x", 40, width, height, 1, 16, 3 * bool(masks), len(body))
    head += struct.pack(f"<{len(masks)}I", *masks)
    return b"BM" + struct.pack("<IHHI", 14 + len(head + body), 0, 0, 14 + len(head)) + head + body


def whole_pictures(chance: np.random.Generator) -> Iterator[OddPicture]:
    """Files that nothing is wrong with."""
    for kind, suffix in KINDS.items():
        for mode in MODES:
            for _ in range(3):
                try:
                    yield OddPicture(f"{kind} {mode}", suffix, encode(picture(chance, mode), kind))
                except (OSError, ValueError, KeyError):
                    # Pillow writes no such file.
                    break
    for mode, chroma, progressive, quality in itertools.product(
        ("RGB", "L", "CMYK"), ("4:4:4", "4:2:2", "4:2:0", "4:1:1"), (False, True), (5, 60, 95)
    ):
        options = {"subsampling": chroma, "progressive": progressive, "quality": quality}
        restarts = int(chance.integers(0, 3))
        data = encode(picture(chance, mode), "JPEG", restart_marker_blocks=restarts, **options)
        yield OddPicture(f"JPEG {mode} {options}", "jpe", data)
    for (kind, where), orientation, mode in itertools.product(PLACES, ORIENTATIONS, ("RGB", "L")):
        data = noted(picture(chance, mode), kind, where, orientation)
        suffix = KINDS.get(kind, "mpo")
        yield OddPicture(f"{kind} {mode} {where} {orientation}", suffix, data)
    for compression, mode in itertools.product(
        (None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd", "lzma", "group4"),
        ("RGB", "L", "1", "CMYK", "I;16"),
    ):
        if (compression == "group4") == (mode == "1") or compression not in ("group4", "jpeg"):
            if compression == "jpeg" and mode in ("1", "I;16"):
                continue
            data = encode(picture(chance, mode), "TIFF", compression=compression)
            yield OddPicture(f"TIFF {mode} {compression}", "tif", data)
    for chroma, quality in itertools.product(("4:4:4", "4:2:2", "4:2:0", "4:0:0"), (30, 90)):
        data = encode(picture(chance), "AVIF", subsampling=chroma, quality=quality)
        yield OddPicture(f"AVIF {chroma} {quality}", "avifs", data)
    for _ in range(12):
        frames = [picture(chance, "RGBA", (31, 22)) for _ in range(3)]
        for kind, suffix, options in (
            ("GIF", "gif", {"disposal": 2, "background": 1}),
            ("PNG", "apng", {}),
            ("PNG", "apng", {"default_image": True}),
            ("WEBP", "webp", {"lossless": True}),
            ("TIFF", "tif", {}),
            ("AVIF", "avifs", {}),
        ):
            data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
            yield OddPicture(f"{kind} of three frames {options}", suffix, data)
        yield OddPicture("PNG interlaced", "png", interlaced_png(picture(chance)))
        yield OddPicture("BMP 5-6-5", "bmp", bmp_of_16_bits(chance, (0xF800, 0x7E0, 0x1F)))
        yield OddPicture("BMP 5-5-5", "bmp", bmp_of_16_bits(chance, ()))
        for bits in (1, 2, 4):
            data = encode(picture(chance).quantize(2**bits), "PNG", bits=bits)
            yield OddPicture(f"PNG of {bits} bits", "png", data)
        # OpenCV writes no JPEG 2000 that is smaller.
        size = tuple(chance.integers(40, 60, 2).tolist())
        colours = np.asarray(picture(chance, size=size)).astype(np.uint16) * 257
        for suffix, values in itertools.product(
            ("png", "tif", "ppm", "jp2", "ras"), (colours, colours >> 8)
        ):
            depth = np.uint8 if values is not colours or suffix == "ras" else np.uint16
            _, encoded = cv2.imencode(f".{suffix}", values.astype(depth))
            what = f"OpenCV's {suffix}, {np.dtype(depth)}"
            yield OddPicture(what, suffix, encoded.tobytes())


def odd_pictures(seed: int = 0) -> list[OddPicture]:
    """All whole ones, and every third of them cut somewhere as well."""
    chance = np.random.default_rng(seed)
    whole = list(whole_pictures(chance))
    return whole + [
        OddPicture(f"{what}, cut", suffix, data[: int(chance.integers(1, len(data)))])
        for what, suffix, data in whole[::3]
    ]
