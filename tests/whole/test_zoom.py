"""Zoomed images, from the tar to the row: sizes, shapes, batches, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pyarrow.dataset
import pytest
import torch
from PIL import Image
from rich.console import Console

from cambox.config import Config, ModelSettings
from cambox.engines.local import LocalEngine
from cambox.errors import RequestError
from cambox.models.load import load_classifier
from cambox.run import run
from cambox.sources.decode import SampleStatus
from cambox.sources.load import LoadedSample, fitted, resize
from cambox.zoomed_image import ZoomedImages
from conftest import ConfigMaker

QUIET = Console(file=io.StringIO())
ZOOM = "cam.zoom={sides: [64, 128], mirrored: [64], windows: 4}"
NETWORK = ("model.input_size=null", "model.name=test_resnet", ZOOM)


def looks_of(config: Config) -> ZoomedImages:
    classifier = LocalEngine(config).model.classifier
    assert config.cam.zoom is not None
    return ZoomedImages(config, config.cam.zoom, classifier, None)


def sample(looks: ZoomedImages, height: int, width: int, seed: int) -> LoadedSample:
    grain = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    return LoadedSample("a", 0, SampleStatus.ok, None, width, height, (1, 2), image)


def test_an_image_keeps_its_shape_in_whole_cells() -> None:
    assert fitted((480, 640), 1280, 32) == (960, 1280)
    assert fitted((640, 427), 448, 32) == (448, 288)
    assert fitted((10, 1000), 224, 32) == (32, 224)


@pytest.mark.parametrize(("size", "cells"), [(64, 2), (80, 3), (300, 10)])
def test_a_cell_is_the_stride_of_the_network_whatever_its_own_size(size: int, cells: int) -> None:
    classifier = load_classifier(ModelSettings(name="test_resnet", input_size=size))
    assert (classifier.head.grid.height, classifier.cell) == (cells, 32)
    # At whole cells the map ends where the image does.
    images = np.zeros((1, 96, 160, 3), np.uint8)
    assert classifier.at(96, 160).scores(images).feature_map.shape[2:] == (3, 5)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_the_mean_over_cells_is_what_the_network_says_at_each_size(
    make_config: ConfigMaker, name: str
) -> None:
    looks = looks_of(make_config(*NETWORK, f"model.name={name}", "cam.classes=label"))
    one = sample(looks, 90, 120, 0)
    [scored] = looks.score([one])
    assert scored.size == (90, 120)
    assert [(level.side, level.mirrored) for level in scored.levels] == [
        (128, False),
        (64, False),
        (64, True),
    ]
    assert one.pixels is not None
    for level in scored.levels:
        height, width = fitted((90, 120), level.side, looks.classifier.cell)
        assert level.size == (height // looks.classifier.cell, width // looks.classifier.cell)
        image = resize(one.pixels, height, width)
        image = np.ascontiguousarray(image[:, ::-1]) if level.mirrored else image
        with torch.inference_mode():
            scores = looks.classifier.at(height, width).scores(image[None])
            features = scores.feature_map[0].permute(1, 2, 0)
            of_cells = [
                looks.classifier.head.logits(row)
                for row in features  # type: ignore[union-attr]
            ]
        expected = torch.stack(of_cells)
        expected = expected.flip(1) if level.mirrored else expected
        torch.testing.assert_close(level.logits, expected, rtol=1e-4, atol=1e-5)
        if name == "test_resnet":
            # A linear head of the mean is the mean of the head.
            mean = level.logits.mean(dim=(0, 1))
            torch.testing.assert_close(mean, scores.logits[0], rtol=1e-3, atol=1e-4)
    chances = [np.exp(windows.log_posterior).max(axis=0) for windows in scored.windows]
    np.testing.assert_allclose(np.max(chances, axis=0), scored.class_scores, rtol=1e-5)


def test_boxes_are_in_the_image_and_the_best_comes_first(make_config: ConfigMaker) -> None:
    summary = run(make_config(*NETWORK, "cam.classes=both", "boxes.max_boxes=2"), QUIET)
    rows = pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()
    assert summary.complete
    assert len(rows) == 12
    for row in rows:
        assert row["objects"]
        of_class: dict[int, list[dict]] = {}
        for box in row["objects"]:
            assert 0 <= box["x_min"] < box["x_max"] <= row["width"]
            assert 0 <= box["y_min"] < box["y_max"] <= row["height"]
            assert 0 < box["box_score"] < 1
            of_class.setdefault(box["class_id"], []).append(box)
        assert row["labels"][0] in of_class
        for boxes in of_class.values():
            assert [box["component"] for box in boxes] == list(range(len(boxes)))
            scores = [box["box_score"] for box in boxes]
            assert scores == sorted(scores, reverse=True)
            assert len(boxes) <= 2


def test_an_image_without_a_likely_class_has_a_row_without_boxes(make_config: ConfigMaker) -> None:
    summary = run(make_config(*NETWORK, "cam.min_probability=1"), QUIET)
    assert summary.complete
    rows = pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()
    assert [(row["status"], row["objects"]) for row in rows] == [("ok", [])] * 12
    assert all(len(row["classes"]) == 3 for row in rows)


def test_rows_do_not_depend_on_the_batch(make_config: ConfigMaker, tmp_path: Path) -> None:
    tables = []
    for size in (1, 4):
        config = make_config(*NETWORK, f"engine.batch_size={size}", f"output.uri={tmp_path}/{size}")
        table = pyarrow.dataset.dataset(run(config, QUIET).folder).to_table()
        tables.append(table.sort_by([("shard", "ascending"), ("sample_index", "ascending")]))
    for one, other in zip(*(table.to_pylist() for table in tables), strict=True):
        assert len(one["objects"]) == len(other["objects"])
        for box, same in zip(one["objects"], other["objects"], strict=True):
            assert box["class_id"] == same["class_id"]
            for side in ("x_min", "y_min", "x_max", "y_max"):
                assert box[side] == pytest.approx(same[side], abs=0.5)


def test_a_sigmoid_classifier_has_a_probability_for_each_class(make_config: ConfigMaker) -> None:
    looks = looks_of(make_config(*NETWORK, "cam.classes=label", "model.activation=sigmoid"))
    [scored] = looks.score([sample(looks, 64, 128, 1)])
    for windows, level in zip(
        scored.windows, [level for level in scored.levels if not level.mirrored], strict=True
    ):
        top, left, bottom, right = windows.cells[0].tolist()
        inside = level.logits[top:bottom, left:right].mean(dim=(0, 1))[[1, 2]]
        np.testing.assert_allclose(
            np.exp(windows.log_posterior[0]), inside.sigmoid().numpy(), rtol=1e-4
        )


@pytest.mark.parametrize(
    "override",
    [
        *("model.input_size=64", "model.class_input_size=64", "cam.centre=0.4"),
        *("cam.refine.steps=1", "cam.truncate=true", "cam.offset=auto", "boxes.threshold=0.5"),
        *("output.store_maps=true", "boxes.calibration={intercept: 0.0}"),
    ],
)
def test_what_has_no_meaning_beside_it_is_refused(make_config: ConfigMaker, override: str) -> None:
    key = override.partition("=")[0].removesuffix(".steps")
    with pytest.raises(RequestError, match=rf"{key} has no meaning beside cam\.zoom"):
        make_config(*NETWORK, override)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_a_network_of_one_shape_is_refused(make_config: ConfigMaker, name: str) -> None:
    config = make_config(*NETWORK, f"model.name={name}")
    with pytest.raises(RequestError, match=rf"cam\.zoom: {name} .* take one, such as"):
        run(config, QUIET)


def test_a_zoomed_picture_of_another_format_is_turned_upright_first(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    """Width and height are those of the upright picture, as for all other recipes."""
    from makers import write_tar

    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 40), (200, 30, 30)).save(buffer, "JPEG", exif=exif)
    write_tar(tmp_path / "a.tar", [("a.jpg", buffer.getvalue()), ("a.cls", b"1")])
    summary = run(make_config(*NETWORK, f"input.shards=[{tmp_path}/a.tar]"), QUIET)
    [row] = pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()
    assert (row["width"], row["height"]) == (40, 90)
