"""Masks from stored maps: the box's own cells, at the size of the image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import supervision
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from cambox.cams.boxes import find_boxes
from cambox.cams.masks import masks_of_boxes
from cambox.config import OutputSettings
from cambox.config_cam import BoxSettings
from cambox.errors import RequestError
from cambox.export import Format
from cambox.export.export import export
from cambox.export.request import ExportRequest
from cambox.output.footer import Recipe
from cambox.output.publish import publish
from cambox.output.rows import StoredMap, table
from cambox.sources.shards import find_shards
from cambox.training.selection import Selection
from makers import KnownBox, KnownRow, boxes_of, write_tar

# A hook around a dot that is no part of it, and a bar.
PICTURE = """
    ##......
    #...#...
    #.......
    ####....
    ........
    .....###
"""
CELLS = np.array([list(line.strip()) for line in PICTURE.split()]) == "#"
HEIGHT, WIDTH = CELLS.shape
HOOK, BAR = (0, 0, 4, 4), (5, 5, 8, 6)
CUT = BoxSettings(threshold=0.5, percentile=100, min_area=0, max_boxes=3)
# Pixels of the image for each cell, down and across.
DOWN, ACROSS = 5, 10


def only(box: tuple[int, int, int, int], more: tuple[int, int] | None = None) -> np.ndarray:
    """The cells inside a box, but for one."""
    left, top, right, bottom = box
    mask = np.zeros_like(CELLS)
    mask[top:bottom, left:right] = CELLS[top:bottom, left:right]
    if more is not None:
        mask[more] = False
    return mask


def test_a_box_has_the_cells_of_its_component_alone() -> None:
    score_map = np.where(CELLS, 3.0, -1.0)
    # The dot lies in the box of all that is above its row, and is no part of the hook.
    wide = np.array([[0, 0, 5, 4], BAR]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    hook, bar = masks_of_boxes(score_map, wide, (HEIGHT, WIDTH), CUT)
    assert (hook == only((0, 0, 5, 4), (1, 4))).all()
    assert (bar == only(BAR)).all()


def test_a_map_without_anything_has_empty_masks() -> None:
    (mask,) = masks_of_boxes(np.ones((4, 4)), np.array([[0.0, 0, 1, 1]]), (8, 8), CUT)
    assert mask.shape == (8, 8)
    assert not mask.any()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 9),
    st.integers(2, 9),
    st.floats(0.2, 0.8),
    st.sampled_from(["bicubic", "bilinear"]),
    st.sampled_from([None, 0.2]),
)
def test_masks_reach_as_far_as_the_boxes_that_the_map_gave(
    seed: int,
    height: int,
    width: int,
    threshold: float,
    interpolation: str,
    split: float | None,
) -> None:
    score_map = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    changed = {"threshold": threshold, "interpolation": interpolation, "split": split}
    chosen = BoxSettings.model_validate({**CUT.model_dump(), **changed})
    size = (5 * height, 4 * width)
    boxes = find_boxes(score_map[None], size, chosen).boxes
    masks = masks_of_boxes(score_map, boxes.corners, size, chosen)
    assert len(masks) == len(boxes) > 0
    for mask, corners in zip(masks, boxes.corners, strict=True):
        _, count = scipy.ndimage.label(mask, np.ones((3, 3)))
        assert count == 1
        down, across = np.nonzero(mask)
        extent = [across.min(), down.min(), across.max() + 1, down.max() + 1]
        assert extent == np.rint(corners * (size[::-1] * 2)).astype(int).tolist()


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of two classes, of whose maps one has two boxes."""
    folder = tmp_path_factory.mktemp("mapped")
    (shard,) = find_shards([str(write_tar(folder / "a.tar", {"a.jpg": b"-"}))])
    scale = np.array([ACROSS, DOWN, ACROSS, DOWN])
    first, second, other = (np.array(box) * scale for box in (HOOK, BAR, BAR))
    row = KnownRow(
        key="a",
        shard=shard.uri,
        sample_index=0,
        status="ok",
        error=None,
        width=WIDTH * ACROSS,
        height=HEIGHT * DOWN,
        labels=(0,),
        classes=(),
        maps=(
            StoredMap.of(1, 1, np.where(only(BAR), 2.0, 0.0)),
            StoredMap.of(0, 0, np.where(CELLS, 1.0, 0.0)),
        ),
        objects=(
            KnownBox(0, 0, 0, 0.5, *first.tolist()),
            KnownBox(0, 0, 1, 0.5, *second.tolist()),
            KnownBox(1, 1, 0, 0.5, *other.tolist()),
        ),
    )
    recipe = {
        "input": {"labels": "cls", "max_pixels": 10_000},
        "model": {"input_size": [HEIGHT, WIDTH]},
        "cam": {},
        "boxes": CUT.model_dump(),
        "output": {"store_maps": True},
    }
    names = ("hook", "bar")
    to = OutputSettings(uri=str(folder / "out"))
    rows = table([row], boxes_of([row]), names, with_maps=True)
    publish(rows, shard, Recipe(json.dumps(recipe), names, 64 * "0"), to)
    return folder / "out"


def test_masks_by_cocos_own_tools_and_supervision(output: Path, tmp_path: Path) -> None:
    # The second class alone and first, so that its number is not its id.
    chosen = Selection(classes=(1, 0))
    export(ExportRequest(str(output), Format.coco, tmp_path / "coco", chosen, masks=True))
    coco = COCO(str(tmp_path / "coco" / "annotations.json"))
    found = coco.loadAnns(coco.getAnnIds())
    assert [item["category_id"] for item in found] == [2, 2, 1]
    for item, box in zip(found, (HOOK, BAR, BAR), strict=True):
        expected = np.kron(only(box), np.ones((DOWN, ACROSS))).astype(bool)
        assert (coco.annToMask(item).astype(bool) == expected).all()
        assert item["area"] == expected.sum()
        assert item["iscrowd"] == 0
        assert supervision.rle_to_mask(item["segmentation"]["counts"], expected.shape[::-1]).sum()
        left, top, right, bottom = np.array(box) * [ACROSS, DOWN, ACROSS, DOWN]
        assert item["bbox"] == [left, top, right - left, bottom - top]


def test_a_box_that_no_map_gave_is_said(tmp_path: Path) -> None:
    (shard,) = find_shards([str(write_tar(tmp_path / "a.tar", {"a.jpg": b"-"}))])
    row = KnownRow(
        *("a", shard.uri, 0, "ok", None, 8, 8, (0,), ()),
        objects=(KnownBox(0, 0, 0, 0.5, 0, 0, 4, 4),),
    )
    recipe = {name: {} for name in ("cam", "boxes")} | {
        "input": {"labels": "cls", "max_pixels": 10_000},
        "model": {"input_size": [8, 8]},
        "output": {"store_maps": True},
    }
    to = OutputSettings(uri=str(tmp_path / "out"))
    rows = table([row], boxes_of([row]), ("x",), with_maps=True)
    publish(rows, shard, Recipe(json.dumps(recipe), ("x",), 64 * "0"), to)
    with pytest.raises(RequestError, match="--masks: the row of a has a box of no stored map"):
        export(ExportRequest(str(to.uri), Format.coco, tmp_path / "coco", masks=True))
