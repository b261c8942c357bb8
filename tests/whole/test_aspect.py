"""Images that keep their shape: where they lie in the input, their maps, and their boxes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from cambox.config import ModelSettings
from cambox.errors import RequestError
from cambox.models.aspect import Frame, keeping_aspect, takes_any_shape
from cambox.models.load import load_classifier
from cambox.run import run
from cambox.sources.load import squash
from conftest import ConfigMaker
from makers import write_tar

QUIET = Console(file=io.StringIO())
KEPT = ("model.keep_aspect=true", "model.input_size=160", "output.store_maps=true")


def rows_of(make_config: ConfigMaker, *overrides: str) -> list[dict[str, Any]]:
    summary = run(make_config(*KEPT, *overrides), QUIET)
    assert summary.complete
    rows: list[dict[str, Any]] = pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()
    return sorted(rows, key=lambda row: row["key"])


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 2, 4]))
def test_what_is_cropped_of_a_padded_image_is_the_image(
    down: int, across: int, cells: int, finer: int
) -> None:
    """Where cells are means of their pixels, those of the image are as if it stood alone."""
    cell, side = 16, 16 * max(down, across, cells)
    image = np.random.default_rng(0).integers(0, 256, (1, 16 * down, 16 * across, 3), np.uint8)
    frame = Frame.in_the_middle(16 * down, 16 * across, (side, side), cell)
    padded = frame.pad(image, np.array([9, 9, 9], np.uint8))
    assert padded.shape == (1, side, side, 3)
    rest = padded.astype(np.int64).sum() - image.astype(np.int64).sum()
    assert rest == 9 * 3 * (side * side - 256 * down * across)

    def features(pixels: np.ndarray) -> torch.Tensor:
        return F.avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).double(), cell // finer)

    torch.testing.assert_close(frame.crop(features(padded)), features(image))


@pytest.mark.parametrize(
    ("name", "any_shape"),
    [
        *(("test_resnet", True), ("test_convnext", True), ("test_efficientnet", True)),
        *(("test_vit", False), ("test_mambaout", False)),
    ],
)
def test_which_networks_take_an_image_as_it_is(name: str, any_shape: bool) -> None:
    classifier = load_classifier(ModelSettings(name=name))
    assert takes_any_shape(classifier) is any_shape
    assert keeping_aspect(classifier, name).aspect == ("kept" if any_shape else "padded")


def test_an_input_that_is_not_square_is_refused(make_config: ConfigMaker) -> None:
    classifier = load_classifier(ModelSettings(name="test_resnet", input_size=(96, 160)))
    with pytest.raises(RequestError, match="a longer side is one number"):
        keeping_aspect(classifier, "test_resnet")
    with pytest.raises(RequestError, match="give one number"):
        make_config("model.keep_aspect=true", "model.input_size=[96, 160]")


def test_an_image_of_a_shape_is_what_a_network_of_that_input_makes_of_it(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    """Kept at 96 x 160 it has the classes, maps and boxes of a network built for 96 x 160."""
    grain = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(grain).resize((320, 192), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_tar(tmp_path / "a.tar", [("a.png", buffer.getvalue())])
    shard = f"input.shards=[{tmp_path}/a.tar]"
    [kept] = rows_of(make_config, shard)
    size = "model.input_size=[96, 160]"
    built = ("model.keep_aspect=false", size, f"output.uri={tmp_path}/built", "cam.top_k=3")
    [own] = rows_of(make_config, shard, *built)
    assert [(one["height"], one["width"]) for one in kept["maps"]] == [(3, 5)] * 3
    # The head is probed at the network's own size, which rounds by it.
    assert [one["class_id"] for one in kept["classes"]] == [
        one["class_id"] for one in own["classes"]
    ]
    for mine, theirs in zip(kept["maps"], own["maps"], strict=True):
        assert mine["low"] == pytest.approx(theirs["low"], abs=1e-4)
        assert mine["high"] == pytest.approx(theirs["high"], abs=1e-4)
    for box, same in zip(kept["objects"], own["objects"], strict=True):
        assert box["class_id"] == same["class_id"]
        for side in ("x_min", "y_min", "x_max", "y_max"):
            assert box[side] == pytest.approx(same[side], abs=320 / 160 + 0.01)


@pytest.mark.parametrize("name", ["test_resnet", "test_mambaout"])
@pytest.mark.parametrize("steps", [0, 2])
def test_maps_have_the_shape_of_their_images_at_any_batch_size(
    make_config: ConfigMaker, tmp_path: Path, name: str, steps: int
) -> None:
    settings = (f"model.name={name}", f"cam.refine.steps={steps}", "cam.refine.layers=2")
    alone = rows_of(make_config, *settings, "engine.batch_size=1", f"output.uri={tmp_path}/1")
    together = rows_of(make_config, *settings, "engine.batch_size=8", f"output.uri={tmp_path}/8")
    stride = 32
    for one, other in zip(alone, together, strict=True):
        cells = [
            max(1, round(pixels * 160 / max(one["height"], one["width"]) / stride))
            * (stride // 16 if steps else 1)
            for pixels in (one["height"], one["width"])
        ]
        assert len(one["maps"]) == 3
        assert {(each["height"], each["width"]) for each in one["maps"]} == {tuple(cells)}
        assert [each["class_id"] for each in one["classes"]] == [
            each["class_id"] for each in other["classes"]
        ]
        for mine, theirs in zip(one["maps"], other["maps"], strict=True):
            assert mine["low"] == pytest.approx(theirs["low"], abs=1e-3)
            assert mine["high"] == pytest.approx(theirs["high"], abs=1e-3)
        for box in one["objects"]:
            assert 0 <= box["x_min"] < box["x_max"] <= one["width"]
            assert 0 <= box["y_min"] < box["y_max"] <= one["height"]


def test_a_padded_image_has_the_maps_of_its_part_of_the_padded_picture(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    """Padded by hand with the mean's colour, the network says the same, and the map around it."""
    grain = np.random.default_rng(5).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(grain).resize((320, 192), Image.Resampling.BICUBIC))
    padded = np.full((160, 160, 3), 128, np.uint8)
    padded[32:128] = squash(image, 96, 160)
    for folder, pixels in (("whole", image), ("padded", padded)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        write_tar(tmp_path / f"{folder}.tar", [("a.png", buffer.getvalue())])
    same = ("model.name=test_vit", "model.mean=[0.5, 0.5, 0.5]", "cam.top_k=1")
    [kept] = rows_of(make_config, *same, f"input.shards=[{tmp_path}/whole.tar]")
    [hand] = rows_of(
        make_config, *same, f"input.shards=[{tmp_path}/padded.tar]", "model.keep_aspect=false"
    )
    assert kept["classes"] == hand["classes"]
    [mine], [whole] = kept["maps"], hand["maps"]
    assert (mine["height"], mine["width"], whole["height"]) == (6, 10, 10)

    def restored(one: dict[str, Any]) -> np.ndarray:
        steps = np.frombuffer(one["values"], np.uint8).reshape(one["height"], one["width"])
        return np.asarray(one["low"] + steps / 255 * (one["high"] - one["low"]))

    spread = whole["high"] - whole["low"]
    np.testing.assert_allclose(restored(mine), restored(whole)[2:8], atol=spread / 250)
