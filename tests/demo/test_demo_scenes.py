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

from cambox.demo import CLASSIFIER, demo_model
from cambox.demo.scenes import CLASS_NAMES, compose_scene, make_scene, write_scenes
from cambox.demo.textures import TEXTURES, texture_ink

SEEDS = st.integers(min_value=0, max_value=2**63 - 1)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_seed_gives_one_scene_and_another_seed_another() -> None:
    first, again, other = make_scene(7), make_scene(7), make_scene(8)
    assert np.array_equal(first.image, again.image)
    assert first.objects == again.objects
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)
    assert first.objects != other.objects


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SEEDS)
def test_boxes_are_the_extents_of_the_visible_objects(seed: int) -> None:
    scene = make_scene(seed)
    image, owners, classes = compose_scene(seed)
    height, width = image.shape[:2]
    assert np.array_equal(scene.image, image)
    assert scene.image.dtype == np.uint8
    assert 192 <= height <= 288
    assert 192 <= width <= 288
    assert 1 <= len(scene.objects) <= 3
    assert tuple(item.class_index for item in scene.objects) == classes
    for position, item in enumerate(scene.objects):
        x_min, y_min, x_max, y_max = item.box
        assert 0 <= x_min < x_max <= width
        assert 0 <= y_min < y_max <= height
        assert 0 <= item.class_index < len(CLASS_NAMES)
        mine = owners == position + 1
        assert 0.05 * height * width < mine.sum() < 0.42 * height * width
        inside = mine[int(y_min) : int(y_max), int(x_min) : int(x_max)]
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
    scene = make_scene(seed)
    box = scene.objects[0].box
    difference = cv2.absdiff(scene.image, empty).max(axis=2) > 80
    x, y, width, height = cv2.boundingRect(difference.astype(np.uint8))
    for other in scene.objects[1:]:
        box = (
            min(box[0], other.box[0]),
            min(box[1], other.box[1]),
            max(box[2], other.box[2]),
            max(box[3], other.box[3]),
        )
    assert box[0] - 1 <= x
    assert box[1] - 1 <= y
    assert x + width <= box[2] + 1
    assert y + height <= box[3] + 1
    assert width >= 0.8 * (box[2] - box[0])
    assert height >= 0.8 * (box[3] - box[1])


def test_objects_hardly_cover_each_other() -> None:
    for seed in range(60):
        scene = make_scene(seed)
        for item in scene.objects:
            for other in scene.objects:
                if other is item:
                    continue
                covers = (
                    item.box[0] >= other.box[0]
                    and item.box[1] >= other.box[1]
                    and item.box[2] <= other.box[2]
                    and item.box[3] <= other.box[3]
                )
                assert not covers


def test_scenes_vary() -> None:
    scenes = [make_scene(seed) for seed in range(120)]
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    assert {item.class_index for scene in scenes for item in scene.objects} == set(range(8))
    touching = [item.box[0] == 0 or item.box[1] == 0 for scene in scenes for item in scene.objects]
    assert 0 < sum(touching) < len(touching) / 2
    assert len({scene.image.shape for scene in scenes}) > 100


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
    write_scenes(tmp_path, 12, first_seed=40)
    names = [f"scene-{index:06d}.jpg" for index in range(12)]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == names
    labels, boxes = read_rows(tmp_path / "labels.csv"), read_rows(tmp_path / "boxes.csv")
    assert list(labels[0]) == ["image", "class_index"]
    assert list(boxes[0]) == ["image", "class_index", "x_min", "y_min", "x_max", "y_max"]
    assert len({tuple(row.values()) for row in labels}) == len(labels)
    for index, name in enumerate(names):
        scene = make_scene(40 + index)
        decoded = cv2.imread(str(tmp_path / "images" / name))[:, :, ::-1]
        assert decoded.shape == scene.image.shape
        assert np.abs(decoded.astype(int) - scene.image).mean() < 12
        given_labels = {int(row["class_index"]) for row in labels if row["image"] == name}
        assert given_labels == {item.class_index for item in scene.objects}
        rows = [row for row in boxes if row["image"] == name]
        written = [tuple(float(row[key]) for key in list(row)[2:]) for row in rows]
        assert written == [item.box for item in scene.objects]
        assert [int(row["class_index"]) for row in rows] == [
            item.class_index for item in scene.objects
        ]
    text = (tmp_path / "class_names.txt").read_text(encoding="utf-8")
    assert text.splitlines() == list(CLASS_NAMES)


@pytest.mark.parametrize(("count", "first_seed"), [(0, 0), (1, -1)])
def test_a_request_out_of_range_is_refused(tmp_path: Path, count: int, first_seed: int) -> None:
    with pytest.raises(ValueError, match="count >= 1 and first_seed >= 0"):
        write_scenes(tmp_path, count, first_seed)


def test_the_shipped_classifier_knows_the_textures() -> None:
    assert CLASSIFIER.stat().st_size < 2_000_000
    settings = demo_model()
    model = timm.create_model(settings.name, **settings.kwargs).eval()
    model.load_state_dict(load_file(CLASSIFIER))
    side = (settings.input_size, settings.input_size)
    scenes = [make_scene(5_000_000 + index) for index in range(30)]
    images = [cv2.resize(scene.image, side, interpolation=cv2.INTER_AREA) for scene in scenes]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0
    mean, std = torch.tensor(settings.mean), torch.tensor(settings.std)
    with torch.inference_mode():
        found = model((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)) > 0.0
    right = 0
    for scene, row in zip(scenes, found.tolist(), strict=True):
        right += {item.class_index for item in scene.objects} == {
            index for index, present in enumerate(row) if present
        }
    assert right >= 28
