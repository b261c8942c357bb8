"""The score of a box against the formula written out, and what a least score drops."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambox.cams import (
    BoxCalibration,
    BoxRule,
    BoxTraits,
    MapBoxes,
    NoBoxReason,
    PseudoBox,
    ScoreRule,
    boxes_from_map,
)
from cambox.config import CalibrationSettings, Config
from cambox.config_file import load_config
from cambox.errors import RequestError

BOX = PseudoBox(0.25, 0.5, 0.75, 1.0, 0.6, 1, True, outside=0.1)


def test_the_score_is_the_logistic_function_of_the_weighted_traits() -> None:
    calibration = BoxCalibration(
        intercept=-1.0,
        class_logit=0.25,
        class_logit_squared=-0.0625,
        given=0.5,
        contrast=2.0,
        area=4.0,
        area_squared=-3.0,
        off_centre=-1.5,
        later=-0.125,
    )
    # Half as wide and half as high as the image; its centre is (0.5, 0.75), and (0, 0.5) of the
    # way from the middle to the corner (1, 1), which is sqrt(2) away.
    total = (
        -1.0
        + 0.25 * math.log(0.9 / 0.1)
        - 0.0625 * math.log(0.9 / 0.1) ** 2
        + 0.5 * 1
        + 2.0 * (0.6 - 0.1)
        + 4.0 * 0.25
        - 3.0 * 0.0625
        - 1.5 * 0.5 / math.sqrt(2)
        - 0.125 * 1
    )
    found = ScoreRule(calibration).apply(MapBoxes((BOX,)), 0.9, given=True)
    assert found.boxes[0].score == pytest.approx(1 / (1 + math.exp(-total)))


def test_what_is_measured_of_a_map_with_a_known_block() -> None:
    # An L of 7 cells at 1 in an extent of 3 x 3; the other 91 cells hold 0.2, and one 0.
    score_map = np.full((10, 10), 0.2, np.float32)
    score_map[2:5, 3] = score_map[2:4, 4] = score_map[2:4, 5] = 1
    score_map[9, 9] = 0
    rule = BoxRule(threshold=0.5, percentile=100, max_boxes=3, min_area=0.0)
    (box,) = boxes_from_map(torch.from_numpy(score_map), (10, 10), rule).boxes
    assert box.score == pytest.approx((7 + 2 * 0.2) / 9)
    assert box.outside == pytest.approx(90 * 0.2 / 91)


def test_a_box_of_the_whole_image_has_nothing_outside() -> None:
    score_map = torch.linspace(0, 1, 16).view(4, 4)
    rule = BoxRule(threshold=0.0, percentile=100, max_boxes=1, min_area=0.0)
    (box,) = boxes_from_map(score_map, (4, 4), rule).boxes
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == (0, 0, 1, 1)
    assert box.outside == 0


@given(st.floats(0, 1), st.floats(-50, 50), st.floats(-50, 50), st.floats(-50, 50))
@settings(max_examples=100)
def test_a_score_is_a_probability_whatever_the_numbers(
    class_score: float, intercept: float, class_logit: float, area: float
) -> None:
    calibration = BoxCalibration(intercept, class_logit=class_logit, area=area)
    score = calibration.probability(BoxTraits.of(BOX, class_score, given=False))
    assert 0 <= score <= 1


def test_boxes_below_the_least_score_are_dropped_and_the_others_counted_anew() -> None:
    boxes = tuple(
        PseudoBox(0, 0, 0.5, 0.5, score, place, True, outside=0)
        for place, score in enumerate((0.3, 0.5, 0.7))
    )
    kept = ScoreRule(min_score=0.5).apply(MapBoxes(boxes), 0.5, given=False)
    assert [(box.score, box.component) for box in kept.boxes] == [(0.5, 0), (0.7, 1)]
    assert kept.reason is None
    none = ScoreRule(min_score=0.8).apply(MapBoxes(boxes), 0.5, given=False)
    assert none == MapBoxes((), NoBoxReason.low_score)
    empty = MapBoxes((), NoBoxReason.constant_map)
    assert ScoreRule(min_score=0.8).apply(empty, 0.5, given=False) == empty


def test_a_setting_has_the_name_of_its_trait() -> None:
    traits = [field.name for field in fields(BoxTraits)]
    assert list(CalibrationSettings.model_fields) == ["intercept", *traits]
    assert [field.name for field in fields(BoxCalibration)] == ["intercept", *traits]


def test_a_calibration_is_a_strict_section_that_may_be_null(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "input: {shards: a.tar}\nmodel: {name: resnet18}\noutput: {uri: out}\n"
        "boxes: {calibration: {intercept: -1, area: 2.5}}\n"
    )
    wanted = load_config(path).boxes.calibration
    assert wanted == CalibrationSettings(intercept=-1, area=2.5)
    assert load_config(path, ["boxes.calibration=null"]).boxes.calibration is None
    with pytest.raises(RequestError, match=r"boxes\.calibration\.aera: unknown key.*mean area"):
        load_config(path, ["boxes.calibration={intercept: 0, aera: 1}"])
    with pytest.raises(RequestError, match=r"boxes\.calibration\.intercept: missing"):
        load_config(path, ["boxes.calibration={area: 1}"])


def test_an_annotated_box_has_its_score_from_its_own_columns(
    annotated_twice: tuple[list[dict], list[dict]],
) -> None:
    """The contrast is not in a row; everything else is."""
    plain, scored = annotated_twice
    boxes = 0
    for before, after in zip(plain, scored, strict=True):
        kept = []
        for box in before["objects"]:
            area = (box["x_max"] - box["x_min"]) * (box["y_max"] - box["y_min"])
            share = area / (before["width"] * before["height"])
            logit = math.log(box["class_score"] / (1 - box["class_score"]))
            total = 1 + 0.5 * logit + 2 * share + (box["rank"] == 0) - (box["component"] > 0)
            score = 1 / (1 + math.exp(-total))
            if score >= 0.4:
                kept.append((box["class_id"], box["rank"], box["x_min"], score))
        found = [
            (box["class_id"], box["rank"], box["x_min"], box["box_score"])
            for box in after["objects"]
        ]
        assert [entry[:3] for entry in found] == [entry[:3] for entry in kept]
        assert [entry[3] for entry in found] == pytest.approx([entry[3] for entry in kept])
        boxes += len(found)
    assert 0 < boxes < sum(len(row["objects"]) for row in plain)


@pytest.fixture
def annotated_twice(make_config: object, tmp_path: Path) -> tuple[list[dict], list[dict]]:
    import io

    import pyarrow.dataset
    from rich.console import Console

    from cambox.run import run

    def rows(*overrides: str) -> list[dict]:
        config = make_config("cam.classes=both", "boxes.threshold=0.6", *overrides)  # type: ignore[operator]
        assert isinstance(config, Config)
        summary = run(config, Console(file=io.StringIO()))
        assert summary.complete
        table = pyarrow.dataset.dataset(summary.folder).to_table()
        return table.sort_by("key").to_pylist()

    calibration = "{intercept: 1, class_logit: 0.5, area: 2, given: 1, later: -1}"
    return rows(), rows(f"boxes.calibration={calibration}", "boxes.min_score=0.4")
