"""Where a gallery is kept."""

from __future__ import annotations

from pathlib import Path

from cambox.errors import RequestError
from cambox.output.publish import publish_bytes
from cambox.review.gallery.collect import Gallery
from cambox.review.gallery.page import render_page
from cambox.review.sheet import draw_sheet, write_sheet

SHEET_COLUMNS = 3
SHEET_TILE_WIDTH = 560


def write_gallery(gallery: Gallery, folder: Path) -> list[Path]:
    """Write ``gallery.html``, and ``sheet.png`` where there is a picture with a box.

    Raises:
        RequestError: they cannot be written.
    """
    page, sheet = folder / "gallery.html", folder / "sheet.png"
    try:
        publish_bytes(str(page.absolute()), render_page(gallery).encode())
        if gallery.tiles:
            write_sheet(sheet, draw_sheet(gallery.tiles, SHEET_COLUMNS, SHEET_TILE_WIDTH))
        else:
            # One of an earlier run would be of other pictures.
            sheet.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be written: {error.strerror}") from error
    return [page, sheet] if gallery.tiles else [page]
