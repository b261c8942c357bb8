"""Which boxes are kept: the score against its formula, a least score, and other classes' boxes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from cambox.boxes import Boxes
from cambox.cams.boxes import FoundBoxes, NoBoxReason, find_boxes
from cambox.cams.score import (
    MapClasses,
    choose_boxes,
    probability,
    traits,
    without_overlapping_classes,
)
from cambox.config import Config
from cambox.config_cam import BoxSettings, CalibrationSettings
from cambox.config_file import load_config
from cambox.errors import RequestError

Sides = tuple[int, int, int, int]
SIDES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)),
    max_size=12,
)
BOX = Boxes.of([[0.25, 0.5, 0.75, 1.0]], score=0.6, outside=0.1, component=1)


def of_maps(*maps: Boxes, reasons: tuple[NoBoxReason | None, ...] | None = None) -> FoundBoxes:
    """What was found in some maps."""
    of_map = np.repeat(np.arange(len(maps)), [len(boxes) for boxes in maps])
    return FoundBoxes(Boxes.joined(maps), of_map, reasons or (None,) * len(maps))


def classes_of(count: int, rank: int = 0, score: float = 0.5) -> MapClasses:
    """So many maps of one image, each of a class of its own."""
    numbers = np.arange(count)
    return MapClasses(numbers * 0, numbers, numbers * 0 + rank, np.full(count, score))


def test_the_score_is_the_logistic_function_of_the_weighted_traits() -> None:
    calibration = CalibrationSettings(
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
    chosen = choose_boxes(
        of_maps(BOX), classes_of(1, rank=0, score=0.9), BoxSettings(calibration=calibration)
    )
    assert chosen.boxes.score.tolist() == pytest.approx([1 / (1 + math.exp(-total))])


def test_what_is_measured_of_a_map_with_a_known_block() -> None:
    # An L of 7 cells at 1 in an extent of 3 x 3; the other 91 cells hold 0.2, and one 0.
    score_map = np.full((10, 10), 0.2, np.float32)
    score_map[2:5, 3] = score_map[2:4, 4] = score_map[2:4, 5] = 1
    score_map[9, 9] = 0
    settings = BoxSettings(threshold=0.5, percentile=100, min_area=0.0)
    found = find_boxes(score_map[None], (10, 10), settings).boxes
    assert found.score.tolist() == pytest.approx([(7 + 2 * 0.2) / 9])
    assert found.outside.tolist() == pytest.approx([90 * 0.2 / 91])


def test_a_box_of_the_whole_image_has_nothing_outside() -> None:
    score_map = torch.linspace(0, 1, 16).view(1, 4, 4)
    settings = BoxSettings(threshold=0.0, percentile=100, max_boxes=1, min_area=0.0)
    found = find_boxes(score_map, (4, 4), settings).boxes
    assert found.corners.tolist() == [[0, 0, 1, 1]]
    assert found.outside.tolist() == [0]


@given(st.floats(0, 1), st.floats(-50, 50), st.floats(-50, 50), st.floats(-50, 50))
@settings(max_examples=100)
def test_a_score_is_a_probability_whatever_the_numbers(
    class_score: float, intercept: float, class_logit: float, area: float
) -> None:
    calibration = CalibrationSettings(intercept=intercept, class_logit=class_logit, area=area)
    box = BOX.with_columns(class_score=np.array([class_score]))
    assert 0 <= probability(calibration, traits(box))[0] <= 1


def test_boxes_below_the_least_score_are_dropped_and_the_others_counted_anew() -> None:
    boxes = Boxes.of(np.tile([0, 0, 0.5, 0.5], (3, 1)), score=[0.3, 0.5, 0.7], component=[0, 1, 2])
    found = of_maps(boxes, Boxes.of(()), reasons=(None, NoBoxReason.constant_map))
    kept = choose_boxes(found, classes_of(2), BoxSettings(min_score=0.5))
    assert kept.boxes.score.tolist() == [0.5, 0.7]
    assert kept.boxes.component.tolist() == [0, 1]
    assert kept.reasons == (None, NoBoxReason.constant_map)
    none = choose_boxes(found, classes_of(2), BoxSettings(min_score=0.8))
    assert len(none.boxes) == 0
    assert none.reasons == (NoBoxReason.low_score, NoBoxReason.constant_map)


def test_boxes_have_image_class_rank_and_score_of_their_map() -> None:
    classes = MapClasses(*(np.array(one) for one in ([4, 4, 9], [7, 2, 2], [0, 1, 1])), np.ones(3))
    found = choose_boxes(of_maps(BOX, Boxes.joined([BOX, BOX]), BOX), classes, BoxSettings())
    assert found.boxes.image.tolist() == [4, 4, 4, 9]
    assert found.boxes.class_id.tolist() == [7, 2, 2, 2]
    assert found.boxes.rank.tolist() == [0, 1, 1, 1]


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


# One object, several classes: against torchvision's suppression and against known boxes.


def boxes_of(*sides: Sides) -> Boxes:
    """From x, y, width, height in hundredths of the image."""
    x, y, width, height = (np.array(sides).reshape(-1, 4) / 100).T
    corners = np.stack([x, y, x + width, y + height], axis=1)
    return Boxes.of(corners, score=0.5, component=np.arange(len(sides)))


def left(*classes: list[Sides], limit: float) -> list[Boxes]:
    found = without_overlapping_classes(of_maps(*(boxes_of(*one) for one in classes)), limit)
    return [found.boxes[found.of_map == number] for number in range(len(classes))]


@given(SIDES, st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_with_a_class_for_each_box_it_is_torchvisions(sides: list[Sides], limit: float) -> None:
    corners = torch.tensor(boxes_of(*sides).corners, dtype=torch.float32)
    scores = torch.arange(len(sides), 0, -1, dtype=torch.float32)
    expected = set(nms(corners, scores, limit).tolist())
    kept = left(*([one] for one in sides), limit=limit)
    assert {place for place, stay in enumerate(kept) if len(stay)} == expected


@given(SIDES)
def test_boxes_of_one_class_all_stay(sides: list[Sides]) -> None:
    assert [len(boxes) for boxes in left(sides, limit=0.0)] == [len(sides)]


def test_two_breeds_on_one_dog_and_another_dog() -> None:
    dog, same_dog, other_dog = (10, 10, 40, 40), (12, 9, 40, 42), (60, 10, 30, 40)
    first, second = left([dog, other_dog], [same_dog, (0, 70, 9, 9)], limit=0.7)
    assert first.corners.tolist() == boxes_of(dog, other_dog).corners.tolist()
    assert first.component.tolist() == [0, 1]
    # What is left of a class is counted from 0.
    assert second.corners.tolist() == boxes_of((0, 70, 9, 9)).corners.tolist()
    assert second.component.tolist() == [0]
    # What was dropped drops nothing.
    chain = left([(0, 0, 10, 10)], [(2, 0, 10, 10)], [(4, 0, 10, 10)], limit=0.5)
    assert [len(boxes) for boxes in chain] == [1, 0, 1]


def test_boxes_of_other_images_drop_nothing() -> None:
    one = boxes_of((0, 0, 9, 9))
    apart = one.with_columns(image=np.array([1]))
    assert len(without_overlapping_classes(of_maps(one, apart), 0.5).boxes) == 2


def test_a_class_without_any_box_left_says_why() -> None:
    one = boxes_of((0, 0, 9, 9))
    found = of_maps(one, one, Boxes.of(()), reasons=(None, None, NoBoxReason.constant_map))
    result = without_overlapping_classes(found, 0.5)
    assert result.of_map.tolist() == [0]
    assert result.reasons == (None, NoBoxReason.overlapping_class, NoBoxReason.constant_map)
