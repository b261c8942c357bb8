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
from cambox.review.draw import Picture, draw_boxes, draw_heat_map, fit_text, within
from cambox.review.palette import DARK, class_colour, heat_colours

# What a tile keeps of a picture: those of a sheet are all in memory.
PICTURE_SIDE = 640

_SOLID, _DASHED = "solid: pseudo box with class and score", "dashed: true box"
_HEAT = "heat: low"


@dataclass(frozen=True)
class SheetTile:
    """One picture of the sheet.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        title: one line, cut with an ellipsis where it is too long.
        score_map: (h, w) finite float of any range and resolution, or None where there is none.
        boxes, true_boxes: in pixels of the image.
        after: pseudo boxes to show on the right, in place of the map; None shows the map.
        offset: how many cells further right and down than it lies a cell of the map looks.
    """

    image: Picture
    title: str
    score_map: NDArray[np.floating[Any]] | None
    boxes: Boxes
    true_boxes: Boxes = field(default_factory=lambda: Boxes.of(()))
    after: Boxes | None = None
    offset: float = 0.0


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


class _Sheet:
    """The sheet that is drawn on, its sizes in pixels, and a colour for each name of a class.

    Panels, the two pictures of a tile, are boxes that pictures fit into.
    """

    def __init__(
        self, tiles: Sequence[SheetTile], class_names: Sequence[str], columns: int, tile_width: int
    ) -> None:
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
        self.font = ImageFont.load_default(size=min(max(tile_width // 36, 11), 20))

        rows = -(-len(tiles) // columns)
        width = self.margin + columns * (self.card_width + self.margin)
        height = round(2.4 * self.margin) + rows * (self.card_height + self.margin)
        self.image = Image.new("RGB", (width, height), DARK["page"])
        self.draw = ImageDraw.Draw(self.image)
        self.class_names = class_names
        drawn = Boxes.joined(boxes for tile in tiles for boxes in (tile.boxes, tile.after) if boxes)
        self.colours = {
            class_names[class_id]: class_colour(class_id)
            for class_id in np.unique(drawn.class_id).tolist()
        }

    def draw_tile(self, tile: SheetTile, row: int, column: int) -> None:
        """Draw one tile, the first row and column being 0."""
        x = self.margin + column * (self.card_width + self.margin)
        y = self.margin + row * (self.card_height + self.margin)
        card = (x, y, x + self.card_width - 1, y + self.card_height - 1)
        self.draw.rounded_rectangle(card, radius=self.padding, fill=DARK["card"])
        room = self.card_width - 2 * self.padding
        title = fit_text(" ".join(tile.title.split()), self.title_font, room)
        place = (x + self.padding, y + self.title_height // 2)
        self.draw.text(place, title, fill=DARK["text"], font=self.title_font, anchor="lm")

        height, width = tile.image.shape[:2]
        scale = min(self.panel_width / width, self.panel_height / height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))

        def boxed(boxes: Boxes, true_boxes: Boxes) -> Picture:
            names, colours = self.class_names, self.colours
            return draw_boxes(tile.image, size, boxes, names, true_boxes, colours, self.font)

        if tile.after is None:
            right = draw_heat_map(tile.image, size, tile.score_map, tile.offset)
        else:
            right = boxed(tile.after, Boxes.of(()))
        left = x + (self.card_width - self.padding) // 2 - size[0]
        top = y + self.title_height + (self.panel_height - size[1]) // 2
        self.image.paste(Image.fromarray(boxed(tile.boxes, tile.true_boxes)), (left, top))
        left += size[0] + self.padding
        self.image.paste(Image.fromarray(right), (left, top))
        if tile.score_map is None and tile.after is None:
            middle = (left + size[0] // 2, top + size[1] // 2)
            self.draw.text(middle, "no map", fill=DARK["text"], font=self.font, anchor="mm")

    def draw_legend(self, legend: str | None, with_truth: bool) -> None:
        """The line below the tiles; None explains those with maps, with a bar of their colours."""
        own = "    ".join((_SOLID, *([_DASHED] if with_truth else []), _HEAT))
        x, y = self.margin, self.image.height - round(1.2 * self.margin)
        bar_width = 6 * self.padding
        room = self.image.width - 2.0 * self.margin
        if legend is None:
            room -= bar_width + 2 * self.padding + self.font.getlength("high")
        text = fit_text(own if legend is None else legend, self.font, room)
        self.draw.text((x, y), text, fill=DARK["soft"], font=self.font, anchor="lm")
        if legend is None:
            ramp = np.linspace(0, 255, bar_width).astype(np.uint8)[None]
            bar = Image.fromarray(heat_colours(ramp.repeat(self.padding, axis=0)))
            x += round(self.font.getlength(text)) + self.padding
            self.image.paste(bar, (x, y - self.padding // 2))
            x += bar_width + self.padding
            self.draw.text((x, y), "high", fill=DARK["soft"], font=self.font, anchor="lm")


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
    columns = min(columns, len(tiles))
    sheet = _Sheet(tiles, class_names, columns, tile_width)
    for position, tile in enumerate(tiles):
        sheet.draw_tile(tile, *divmod(position, columns))
    sheet.draw_legend(legend, any(len(tile.true_boxes) for tile in tiles))
    return np.asarray(sheet.image)


def png(sheet: Picture) -> bytes:
    """A sheet, (H, W, 3) uint8 RGB, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, format="PNG", optimize=True)
    return file.getvalue()
