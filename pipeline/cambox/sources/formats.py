"""The kinds of image file that are read: how their names end, and what Pillow calls them."""

from __future__ import annotations

IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "jp2", "avif"),
    *("jfif", "jpe", "mpo", "apng", "avifs", "dib", "pbm", "pnm", "j2k", "j2c", "jpc", "jpf"),
    *("jpx", "heic", "heif", "hif", "qoi", "tga", "sgi", "ras"),
)
"""Lower case; the earlier one counts where a sample has several, so new ones go to the end."""

PILLOW_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF"),
    *("DIB", "QOI", "SGI", "SUN", "TGA"),
)
"""All that Pillow is asked for: it knows formats that run other programs, open other files or do
not notice that a file is cut, and the bytes come from anywhere. The often mistaken come last."""

# Of the usual kinds, as files begin; of HEIC and AVIF from the fifth byte on.
_BEGINNINGS = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"RIFF",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"P5",
    b"P6",
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")


def begins_an_image(data: bytes) -> bool:
    """Whether a file begins as those of the usual kinds of image do."""
    return data.startswith(_BEGINNINGS) or data[4:8] == b"ftyp"


def is_heic(data: bytes) -> bool:
    """Whether a file says that its picture is coded as HEVC, which Pillow alone does not read."""
    # The box of brands is the first: the main one, a version, and those it is compatible with.
    if data[4:8] != b"ftyp":
        return False
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return any(brand in brands for brand in _HEIC_BRANDS)
