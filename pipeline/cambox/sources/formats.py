"""The kinds of image file that are read: how their names end, and what Pillow calls them."""

from __future__ import annotations

IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "jp2", "avif"),
    *("jfif", "jpe", "mpo", "apng", "avifs", "dib", "pbm", "pnm", "j2k", "j2c", "jpc", "jpf"),
    *("jpx", "heic", "heif", "hif", "qoi", "tga", "pcx", "sgi", "ras"),
)
"""Lower case; the earlier one counts where a sample has several, so new ones go to the end."""

PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
"""All that Pillow is asked for: it knows formats that run other programs or open other files, and
the bytes come from anywhere."""
