"""A contact sheet: pictures with their pseudo boxes beside the evidence the boxes came from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cambox.boxes import Boxes
from cambox.review.draw import (
    Colour,
    Picture,
    draw_boxes,
    draw_heat_map,
    fit_text,
    heat_colours,
    within,
)

# What a tile keeps of a picture: those of a sheet are all in memory.
PICTURE_SIDE = 640

_PAGE: Colour = (18, 20, 24)
_CARD: Colour = (30, 33, 40)
_TEXT: Colour = (232, 234, 238)
_FAINT_TEXT: Colour = (150, 156, 166)
_PALETTE: tuple[Colour, ...] = (
    (0, 200, 255),
    (255, 176, 0),
    (76, 217, 100),
    (255, 92, 138),
    (170, 140, 255),
    (255, 236, 79),
    (64, 224, 190),
    (255, 122, 69),
    (120, 170, 255),
    (230, 120, 240),
)
_LEGEND = "solid: pseudo box with class and score    dashed: true box    heat: low"


@dataclass(frozen=True)
class SheetTile:
    """One picture of the sheet.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        title: one line, cut with an ellipsis where it is too long.
        score_map: (h, w) finite float of any range and resolution, or None where there is none.
        boxes, true_boxes: in pixels of the image.
        after: pseudo boxes to show on the right, in place of the map; None shows the map.
    """

    image: Picture
    title: str
    score_map: NDArray[np.floating[Any]] | None
    boxes: Boxes
    true_boxes: Boxes = field(default_factory=lambda: Boxes.of(()))
    after: Boxes | None = None


def shrunk(tile: SheetTile) -> SheetTile:
    """The tile with its picture, and the boxes with it, no larger than a sheet needs."""
    image = within(tile.image, PICTURE_SIDE)
    scale = image.shape[1] / tile.image.shape[1], image.shape[0] / tile.image.shape[0]
    return replace(
        tile,
        image=image,
        boxes=tile.boxes.scaled(*scale),
        true_boxes=tile.true_boxes.scaled(*scale),
        after=None if tile.after is None else tile.after.scaled(*scale),
    )


class _Layout:
    """Sizes in pixels. Panels, the two pictures of a tile, are boxes that pictures fit into."""

    def __init__(self, tiles: Sequence[SheetTile], tile_width: int) -> None:
        self.padding = max(8, tile_width // 50)
        self.margin = 2 * self.padding
        self.panel_width = (tile_width - 3 * self.padding) // 2
        # As tall as the tallest picture needs, but a portrait is shown smaller than a landscape.
        tallest = max(tile.image.shape[0] / tile.image.shape[1] for tile in tiles)
        self.panel_height = round(self.panel_width * min(tallest, 1.0))
        title_size = min(max(tile_width // 30, 12), 24)
        self.title_height = round(2.3 * title_size)
        self.card_width = 2 * self.panel_width + 3 * self.padding
        self.card_height = self.title_height + self.panel_height + self.padding
        self.title_font = ImageFont.load_default(size=title_size)
        self.label_font = ImageFont.load_default(size=min(max(tile_width // 36, 11), 20))


def _draw_tile(
    sheet: Image.Image,
    tile: SheetTile,
    corner: tuple[int, int],
    layout: _Layout,
    class_names: Sequence[str],
    colours: dict[str, Colour],
) -> None:
    """Draw one tile with its card's upper left corner at ``corner``."""
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    width = layout.card_width
    card = (x, y, x + width - 1, y + layout.card_height - 1)
    draw.rounded_rectangle(card, radius=layout.padding, fill=_CARD)
    title = fit_text(" ".join(tile.title.split()), layout.title_font, width - 2 * layout.padding)
    title_place = (x + layout.padding, y + layout.title_height // 2)
    draw.text(title_place, title, fill=_TEXT, font=layout.title_font, anchor="lm")

    height, image_width = tile.image.shape[:2]
    scale = min(layout.panel_width / image_width, layout.panel_height / height)
    size = (max(1, round(image_width * scale)), max(1, round(height * scale)))

    def boxed(boxes: Boxes, true_boxes: Boxes) -> Picture:
        font = layout.label_font
        return draw_boxes(tile.image, size, boxes, class_names, true_boxes, colours, font)

    if tile.after is None:
        right = draw_heat_map(tile.image, size, tile.score_map)
    else:
        right = boxed(tile.after, Boxes.of(()))
    left = x + (width - layout.padding) // 2 - size[0]
    top = y + layout.title_height + (layout.panel_height - size[1]) // 2
    sheet.paste(Image.fromarray(boxed(tile.boxes, tile.true_boxes)), (left, top))
    left += size[0] + layout.padding
    sheet.paste(Image.fromarray(right), (left, top))
    if tile.score_map is None and tile.after is None:
        middle = (left + size[0] // 2, top + size[1] // 2)
        draw.text(middle, "no map", fill=_TEXT, font=layout.label_font, anchor="mm")


def _draw_legend(sheet: Image.Image, layout: _Layout, legend: str | None) -> None:
    """The line below the tiles; None explains those with maps, with a bar of the maps' colours."""
    draw = ImageDraw.Draw(sheet)
    font = layout.label_font
    x, y = layout.margin, sheet.height - round(1.2 * layout.margin)
    bar_width = 6 * layout.padding
    room = sheet.width - 2.0 * layout.margin
    if legend is None:
        room -= bar_width + 2 * layout.padding + font.getlength("high")
    text = fit_text(_LEGEND if legend is None else legend, font, room)
    draw.text((x, y), text, fill=_FAINT_TEXT, font=font, anchor="lm")
    if legend is None:
        ramp = np.linspace(0, 255, bar_width).astype(np.uint8)[None].repeat(layout.padding, axis=0)
        x += round(font.getlength(text)) + layout.padding
        sheet.paste(Image.fromarray(heat_colours(ramp)), (x, y - layout.padding // 2))
        x += bar_width + layout.padding
        draw.text((x, y), "high", fill=_FAINT_TEXT, font=font, anchor="lm")


def draw_sheet(
    tiles: Sequence[SheetTile],
    class_names: Sequence[str],
    columns: int = 3,
    tile_width: int = 560,
    legend: str | None = None,
) -> Picture:
    """Draw tiles row by row; each is a picture with boxes beside its heat map.

    Args:
        tiles: at least one.
        class_names: by the boxes' class ids.
        columns: tiles in a row, from 1.
        tile_width: in pixels, from 240.
        legend: the line below the tiles; None explains boxes and heat maps.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    layout = _Layout(tiles, tile_width)
    drawn = [boxes for tile in tiles for boxes in (tile.boxes, tile.after) if boxes is not None]
    labels = sorted({class_names[class_id] for boxes in drawn for class_id in boxes.class_id})
    colours = {label: _PALETTE[i % len(_PALETTE)] for i, label in enumerate(labels)}
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step_x = layout.card_width + layout.margin
    step_y = layout.card_height + layout.margin
    size = (layout.margin + columns * step_x, round(2.4 * layout.margin) + rows * step_y)
    sheet = Image.new("RGB", size, _PAGE)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, columns)
        corner = layout.margin + column * step_x, layout.margin + row * step_y
        _draw_tile(sheet, tile, corner, layout, class_names, colours)
    _draw_legend(sheet, layout, legend)
    return np.asarray(sheet)


def png(sheet: Picture) -> bytes:
    """A sheet, (H, W, 3) uint8 RGB, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, format="PNG", optimize=True)
    return file.getvalue()
