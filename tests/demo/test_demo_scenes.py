"""The demo's scenes: seeded, and with boxes that are where the objects are."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cambox.boxes import Boxes
from cambox.config_file import load_config
from cambox.demo import CLASSIFIER
from cambox.demo.painting import TEXTURES, texture_ink
from cambox.demo.scenes import CLASS_NAMES, compose_scene, make_scene, write_scenes

SEEDS = st.integers(min_value=0, max_value=2**63 - 1)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_seed_gives_one_scene_and_another_seed_another() -> None:
    (first, boxes), (again, same_boxes), (other, other_boxes) = map(make_scene, (7, 7, 8))
    assert np.array_equal(first, again)
    assert np.array_equal(boxes.corners, same_boxes.corners)
    assert np.array_equal(boxes.class_id, same_boxes.class_id)
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert not np.array_equal(boxes.corners, other_boxes.corners)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SEEDS)
def test_boxes_are_the_extents_of_the_visible_objects(seed: int) -> None:
    shown, boxes = make_scene(seed)
    image, owners, classes = compose_scene(seed)
    height, width = image.shape[:2]
    assert np.array_equal(shown, image)
    assert shown.dtype == np.uint8
    assert 192 <= height <= 288
    assert 192 <= width <= 288
    assert 1 <= len(boxes) <= 3
    assert tuple(boxes.class_id) == classes
    for position, (x_min, y_min, x_max, y_max) in enumerate(boxes.corners.astype(int)):
        assert 0 <= x_min < x_max <= width
        assert 0 <= y_min < y_max <= height
        assert 0 <= boxes.class_id[position] < len(CLASS_NAMES)
        mine = owners == position + 1
        assert 0.05 * height * width < mine.sum() < 0.42 * height * width
        inside = mine[y_min:y_max, x_min:x_max]
        assert inside.sum() == mine.sum(), "a part of the object lies outside its box"
        edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
        assert all(edge.any() for edge in edges), "the box is larger than the object"


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(min_value=0, max_value=10**6))
def test_the_box_is_where_the_picture_shows_the_object(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cambox.demo.scenes.paint_texture", lambda *arguments: None)
        empty, _, _ = compose_scene(seed)
    # Painting draws from the same generator, so only what is drawn before the first object is
    # the same in both pictures: the background, up to the grain.
    image, boxes = make_scene(seed)
    left, top = boxes.corners[:, :2].min(axis=0)
    right, bottom = boxes.corners[:, 2:].max(axis=0)
    difference = cv2.absdiff(image, empty).max(axis=2) > 80
    x, y, width, height = cv2.boundingRect(difference.astype(np.uint8))
    assert left - 1 <= x
    assert top - 1 <= y
    assert x + width <= right + 1
    assert y + height <= bottom + 1
    assert width >= 0.8 * (right - left)
    assert height >= 0.8 * (bottom - top)


def test_objects_hardly_cover_each_other() -> None:
    for seed in range(60):
        _, boxes = make_scene(seed)
        low, high = boxes.corners[:, :2], boxes.corners[:, 2:]
        covers = (low[:, None] >= low).all(axis=2) & (high[:, None] <= high).all(axis=2)
        assert covers.sum() == len(boxes), "each covers itself alone"


def test_scenes_vary() -> None:
    images, objects = zip(*map(make_scene, range(120)), strict=True)
    boxes = Boxes.joined(objects)
    assert set(map(len, objects)) == {1, 2, 3}
    assert set(boxes.class_id.tolist()) == set(range(8))
    touching = (boxes.corners[:, :2] == 0).any(axis=1)
    assert 0 < touching.sum() < len(touching) / 2
    assert len({image.shape for image in images}) > 100


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_a_texture_has_both_ink_and_paper_everywhere(name: str) -> None:
    period = 20.0
    v, u = np.mgrid[0:200, 0:200].astype(np.float32) / np.float32(period)
    ink = texture_ink(name, u, v, period)
    assert ink.shape == (200, 200)
    assert ink.dtype == np.float32
    assert ink.min() == 0.0
    assert ink.max() == 1.0
    # A square of 2.5 periods anywhere shows the texture: the evidence is not in one place.
    blocks = ink.reshape(4, 50, 4, 50).mean(axis=(1, 3))
    assert blocks.min() > 0.15
    assert blocks.max() < 0.85


def test_written_files_match_the_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path, range(40, 52))
    names = [f"scene-{index:06d}.jpg" for index in range(12)]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == names
    labels, boxes = read_rows(tmp_path / "labels.csv"), read_rows(tmp_path / "boxes.csv")
    assert list(labels[0]) == ["image", "class_index"]
    assert list(boxes[0]) == ["image", "class_index", "x_min", "y_min", "x_max", "y_max"]
    assert len({tuple(row.values()) for row in labels}) == len(labels)
    for index, name in enumerate(names):
        image, objects = make_scene(40 + index)
        decoded = cv2.imread(str(tmp_path / "images" / name))[:, :, ::-1]
        assert decoded.shape == image.shape
        assert np.abs(decoded.astype(int) - image).mean() < 12
        given_labels = {int(row["class_index"]) for row in labels if row["image"] == name}
        assert given_labels == set(objects.class_id.tolist())
        rows = [row for row in boxes if row["image"] == name]
        written = [[float(row[key]) for key in list(row)[2:]] for row in rows]
        assert written == objects.corners.tolist()
        assert [int(row["class_index"]) for row in rows] == objects.class_id.tolist()
    text = (tmp_path / "class_names.txt").read_text(encoding="utf-8")
    assert text.splitlines() == list(CLASS_NAMES)


def test_the_shipped_classifier_knows_the_textures() -> None:
    assert CLASSIFIER.stat().st_size < 2_000_000
    settings = load_config("demo").model
    model = timm.create_model(settings.name, **settings.kwargs).eval()
    model.load_state_dict(load_file(CLASSIFIER))
    side = (settings.input_size, settings.input_size)
    scenes = [make_scene(5_000_000 + index) for index in range(30)]
    images = [cv2.resize(image, side, interpolation=cv2.INTER_AREA) for image, _ in scenes]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0
    mean, std = torch.tensor(settings.mean), torch.tensor(settings.std)
    with torch.inference_mode():
        found = model((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)) > 0.0
    right = 0
    for (_, objects), row in zip(scenes, found.tolist(), strict=True):
        present = {index for index, is_present in enumerate(row) if is_present}
        right += set(objects.class_id.tolist()) == present
    assert right >= 28
