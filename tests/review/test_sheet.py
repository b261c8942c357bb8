"""The contact sheet: what is drawn, where, and what is refused."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont

from cambox.boxes import Boxes
from cambox.cams.boxes import find_boxes
from cambox.config_cam import BoxSettings
from cambox.review.draw import draw_boxes, draw_heat_map, fit_text
from cambox.review.palette import style_sheet
from cambox.review.sheet import SheetTile, draw_sheet, png

GREY = np.full((90, 120, 3), 128, np.uint8)
GREEN = (10, 240, 20)
NAMES = ("striped", "dotted", "label" * 100)
NONE = Boxes.of(())
BOX = Boxes.of([[30, 30, 90, 75]], class_id=0, score=0.875)
TILE = SheetTile(GREY, "scene-000000", np.eye(4, dtype=np.float32), BOX, Boxes.of([[5, 5, 50, 60]]))
FONT = ImageFont.load_default(size=12)


def test_the_sheet_grows_with_tiles_and_columns() -> None:
    one = draw_sheet([TILE], NAMES, columns=3, tile_width=400)
    two = draw_sheet([TILE, TILE], NAMES, columns=3, tile_width=400)
    three = draw_sheet([TILE, TILE, TILE], NAMES, columns=2, tile_width=400)
    assert one.dtype == np.uint8
    assert one.ndim == 3
    assert one.shape[2] == 3
    assert 400 <= one.shape[1] < 460
    assert two.shape[0] == one.shape[0]
    assert 800 <= two.shape[1] < 860
    assert three.shape[1] == two.shape[1]
    assert three.shape[0] > 1.7 * one.shape[0]


def test_the_border_of_a_box_lies_at_its_pixels() -> None:
    # Twice the picture's size: the frame is from 60, 60 to 180, 150, half-open.
    panel = draw_boxes(GREY, (240, 180), BOX, ["striped"], NONE, {"striped": GREEN}, FONT)
    drawn = (panel == GREEN).all(axis=2)
    assert drawn[60:150, 60].all()
    assert drawn[60:150, 179].all()
    assert drawn[60, 60:180].all()
    assert drawn[149, 60:180].all()
    assert not drawn[150:].any()
    assert not drawn[:, :60].any()
    assert not drawn[:, 180:].any()
    assert (panel[70:140, 70:170] == 128).all(), "the inside of a box stays visible"


def test_a_box_without_a_score_is_labelled_by_its_class_alone() -> None:
    def label_width(score: float) -> int:
        box = BOX.with_columns(score=np.array([score]))
        panel = draw_boxes(GREY, (240, 180), box, ["striped"], NONE, {"striped": GREEN}, FONT)
        return int((panel[58] == GREEN).all(axis=1).sum())

    wider = label_width(0.5) - label_width(np.nan)
    assert wider == pytest.approx(FONT.getlength("striped 0.50") - FONT.getlength("striped"), abs=1)


def test_a_true_box_is_a_thin_dashed_white_line() -> None:
    panel = draw_boxes(GREY, (120, 90), NONE, [], Boxes.of([[20, 10, 100, 80]]), {}, FONT)
    white = (panel == 255).all(axis=2)
    assert 0.3 < white[10, 20:100].mean() < 0.9
    assert 0.3 < white[10:80, 20].mean() < 0.9
    white[[10, 79]] = False
    white[:, [20, 99]] = False
    assert not white.any()


def test_a_box_at_the_picture_s_edge_is_drawn_whole() -> None:
    box = Boxes.of([[0, 0, 120, 90]])
    panel = draw_boxes(GREY, (120, 90), box, ["striped"], NONE, {"striped": GREEN}, FONT)
    drawn = (panel == GREEN).all(axis=2)
    assert drawn[89].all()
    assert drawn[:, 119].all()


def test_the_heat_map_is_brightest_where_the_score_is_highest() -> None:
    scores = np.full((5, 7), -3.0)
    scores[1, 5] = 9.0
    panel = draw_heat_map(GREY, (280, 200), scores).sum(axis=2, dtype=int)
    row, column = np.unravel_index(panel.argmax(), panel.shape)
    assert 40 <= row < 80
    assert 200 <= column < 240
    constant = draw_heat_map(GREY, (28, 20), np.zeros((5, 7)))
    assert (constant == constant[0, 0]).all()


@pytest.mark.parametrize("offset", [0.5, -0.4])
def test_the_heat_map_lies_where_its_cells_look(offset: float) -> None:
    """As the boxes: the middle of the heat is the middle of the box of the same map."""
    scores = np.zeros((5, 7))
    scores[2, 3] = 1
    rule = BoxSettings(threshold=0.5, percentile=100, min_area=0)
    found = find_boxes(scores[None], (200, 280), rule, offset)
    left, top, right, bottom = found.boxes.corners[0]
    panel = draw_heat_map(np.zeros((200, 280, 3), np.uint8), (280, 200), scores, offset)
    rows, columns = np.nonzero(panel.sum(axis=2, dtype=int) > 0.8 * panel.sum(axis=2).max())
    assert columns.mean() + 0.5 == pytest.approx(280 * (left + right) / 2, abs=1.5)
    assert rows.mean() + 0.5 == pytest.approx(200 * (top + bottom) / 2, abs=1.5)
    # What it leaves free is as its edge.
    edge = draw_heat_map(GREY, (280, 200), np.arange(35.0).reshape(5, 7), offset).astype(int)
    assert np.abs(np.diff(edge[:5, :20], axis=1)).max() <= 6


def test_the_heat_map_depends_on_the_order_of_the_scores_alone() -> None:
    scores = np.arange(12.0).reshape(3, 4)
    wide = draw_heat_map(GREY, (40, 30), 1000.0 * scores - 500.0)
    assert np.abs(wide.astype(int) - draw_heat_map(GREY, (40, 30), scores)).max() <= 3


def test_each_label_keeps_one_colour_over_the_sheet() -> None:
    def colours_of(label: str, sheet: np.ndarray) -> set[tuple[int, ...]]:
        return {tuple(pixel) for pixel in sheet.reshape(-1, 3)}

    dotted = replace(TILE, boxes=replace(BOX, class_id=np.array([1])))
    both = colours_of("both", draw_sheet([TILE, dotted], NAMES, 2, 400))
    striped_twice = colours_of("striped", draw_sheet([TILE, TILE], NAMES, 2, 400))
    assert (255, 176, 0) in both
    assert (0, 200, 255) in both
    assert (255, 176, 0) not in striped_twice


def test_a_class_has_the_sheet_s_colour_on_the_gallery_s_page() -> None:
    variables = dict(re.findall(r"--(class-\d+): (#[0-9a-f]{6});", style_sheet()))
    for class_id in (0, 1, 2, 12):
        tile = replace(TILE, boxes=replace(BOX, class_id=np.array([class_id])))
        sheet = draw_sheet([tile], [f"class {number}" for number in range(13)], 1, 400)
        (name,) = {variables[f"class-{class_id % len(variables)}"]}
        colour = tuple(bytes.fromhex(name[1:]))
        assert (sheet == colour).all(axis=2).sum() > 100


def test_long_texts_are_cut_to_the_room_they_have() -> None:
    assert fit_text("short", FONT, 500) == "short"
    cut = fit_text("a title that is much too long for this", FONT, 80)
    assert cut.endswith("…")
    assert FONT.getlength(cut) <= 80
    tile = replace(TILE, title="word " * 200, boxes=replace(BOX, class_id=np.array([2])))
    assert draw_sheet([tile], NAMES, 1, 240).shape == draw_sheet([TILE], NAMES, 1, 240).shape


def test_a_tile_without_a_map_or_boxes_is_drawn() -> None:
    sheet = draw_sheet([SheetTile(GREY, "nothing found", None, NONE)], NAMES, 1, 400)
    assert sheet.shape == draw_sheet([TILE], NAMES, 1, 400).shape


def test_tiles_of_different_shapes_keep_their_proportions() -> None:
    red = np.zeros((200, 50, 3), np.uint8)
    red[:, :, 0] = 255
    sheet = draw_sheet([SheetTile(red, "", None, NONE), TILE], NAMES, 2, 400)
    rows, columns = np.nonzero((sheet == (255, 0, 0)).all(axis=2))
    ratio = (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
    assert ratio == pytest.approx(4.0, rel=0.05)


def test_the_file_holds_the_sheet() -> None:
    sheet = draw_sheet([TILE], NAMES, 1, 300)
    with Image.open(io.BytesIO(png(sheet))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), sheet)


def test_boxes_of_afterwards_take_the_place_of_the_map() -> None:
    moved = replace(BOX, corners=np.array([[60.0, 30, 110, 75]]))
    sheet = draw_sheet([replace(TILE, after=moved)], NAMES, 1, 600, legend="before, after")
    _, columns = np.nonzero((sheet == (0, 200, 255)).all(axis=2))
    left = columns < sheet.shape[1] // 2
    # Each panel has its own frame; between them the frames of one label have one colour.
    assert np.ptp(columns[left]) / np.ptp(columns[~left]) == pytest.approx(60 / 50, rel=0.1)
    assert draw_sheet([replace(TILE, after=NONE)], NAMES, 1, 600).shape == sheet.shape


def test_the_legend_explains_true_boxes_where_there_are_any() -> None:
    def length(*tiles: SheetTile) -> int:
        sheet = draw_sheet(tiles, NAMES, 1, 900)
        below = sheet[-70:-20].astype(int)
        lit = (np.abs(below - below[-1, -1]) > 40).any(axis=(0, 2))
        return int(np.flatnonzero(lit).max())

    without = replace(TILE, true_boxes=NONE)
    assert length(without) < length(TILE) - 50
    assert length(without, TILE) == length(TILE)
