"""Boxes of maps with known geometry, and against scipy's labelling of components."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from cambox.boxes import Boxes, iou, pairs_by_overlap
from cambox.cams.boxes import FoundBoxes, NoBoxReason, find_boxes
from cambox.config_cam import BoxSettings


def rule(
    threshold: float,
    percentile: float,
    max_boxes: int,
    min_area: float,
    interpolation: str = "bicubic",
) -> BoxSettings:
    return BoxSettings(
        threshold=threshold,
        percentile=percentile,
        max_boxes=max_boxes,
        min_area=min_area,
        interpolation=interpolation,  # type: ignore[arg-type]
    )


PLAIN = rule(0.5, 100, 9, 0.0)


def found_in(score_map: object, size: tuple[int, int], settings: BoxSettings) -> FoundBoxes:
    """Of one map (h, w)."""
    return find_boxes(np.asarray(score_map)[None], size, settings)


def extents(score_map: np.ndarray, settings: BoxSettings = PLAIN) -> list[tuple[float, ...]]:
    """Boxes in cells, at the map's own size, so that nothing is interpolated."""
    height, width = score_map.shape
    found = found_in(score_map, (height, width), settings)
    return [tuple(corners) for corners in found.boxes.scaled(width, height).corners.tolist()]


def test_a_block_of_cells_gives_its_half_open_extent() -> None:
    score_map = np.zeros((10, 12), np.float32)
    score_map[2:5, 3:8] = 1
    assert extents(score_map) == [(3, 2, 8, 5)]


def test_diagonal_neighbours_are_one_component() -> None:
    score_map = np.zeros((6, 6), np.float32)
    score_map[1, 1] = score_map[2, 2] = 1
    assert extents(score_map) == [(1, 1, 3, 3)]


def test_the_largest_component_is_counted_in_cells_not_by_its_contour() -> None:
    # A line of 12 cells encloses no contour area; a block of 9 does.
    score_map = np.zeros((12, 14), np.float32)
    score_map[1, 1:13] = 1
    score_map[6:9, 4:7] = 1
    assert extents(score_map) == [(1, 1, 13, 2), (4, 6, 7, 9)]


def test_a_hole_is_no_box_of_its_own() -> None:
    score_map = np.zeros((14, 14), np.float32)
    score_map[2:12, 2:12] = 1
    score_map[5:9, 5:9] = 0
    assert extents(score_map) == [(2, 2, 12, 12)]


def test_the_threshold_is_strict() -> None:
    score_map = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert extents(score_map) == [(2, 0, 3, 1)]


def test_the_percentile_is_the_standard_of_the_threshold() -> None:
    # 90 % of the cells are at or below 0.5, so tau x percentile = 0.25 lets the plateau in.
    score_map = np.zeros((10, 10), np.float32)
    score_map[:, 2:9] = 0.5
    score_map[:, 9] = 1
    assert extents(score_map, rule(0.5, 90.0, 3, 0.0)) == [(2, 0, 10, 10)]
    assert extents(score_map, rule(0.5, 100.0, 3, 0.0)) == [(9, 0, 10, 10)]


def test_score_edge_and_component_of_the_boxes() -> None:
    score_map = np.zeros((10, 10), np.float32)
    score_map[0:3, 0:3] = 1
    score_map[1, 1] = 0.25
    score_map[5:7, 5:7] = 0.75
    found = found_in(score_map, (10, 10), PLAIN).boxes
    assert found.component.tolist() == [0, 1]
    assert found.touches_edge.tolist() == [True, False]
    assert found.score.tolist() == pytest.approx([(8 + 0.25) / 9, 0.75])


def test_max_boxes_and_min_area() -> None:
    score_map = np.zeros((20, 20), np.float32)
    for number, size in enumerate((1, 2, 3, 4)):
        score_map[2 : 2 + size, number * 5 : number * 5 + size] = 1
    assert len(extents(score_map, rule(0.5, 100, 2, 0.0))) == 2
    assert len(extents(score_map, rule(0.5, 100, 9, 9 / 400))) == 2
    nothing = found_in(score_map, (20, 20), rule(0.5, 100, 9, 0.5))
    assert len(nothing.boxes) == 0
    assert nothing.reasons == (NoBoxReason.too_small,)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (torch.zeros(4, 4), NoBoxReason.constant_map),
        (torch.full((4, 4), 0.3), NoBoxReason.constant_map),
        (torch.full((1, 1), -2.0), NoBoxReason.constant_map),
        (100 + 1e-5 * torch.rand(4, 4), NoBoxReason.constant_map),
        (torch.tensor([[0.0, torch.nan]]), NoBoxReason.non_finite_map),
        (torch.tensor([[0.0, torch.inf]]), NoBoxReason.non_finite_map),
        (torch.full((2, 2), -torch.inf), NoBoxReason.non_finite_map),
    ],
)
def test_maps_without_information_give_no_box_and_say_why(
    values: torch.Tensor, reason: NoBoxReason
) -> None:
    found = found_in(values, (16, 16), BoxSettings())
    assert len(found.boxes) == 0
    assert found.reasons == (reason,)


def test_a_map_without_a_batch_is_refused_with_its_shape() -> None:
    with pytest.raises(ValueError, match=r"\(m, h, w\), got \(4, 4\)"):
        find_boxes(torch.zeros(4, 4), (8, 8), BoxSettings())


@given(
    st.integers(2, 9),
    st.integers(2, 9),
    st.floats(0, 1),
    st.floats(0, 100),
    st.sampled_from(["bicubic", "bilinear"]),
    st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_boxes_agree_with_scipys_components(
    height: int, width: int, threshold: float, percentile: float, interpolation: str, seed: int
) -> None:
    score_map = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    # At the map's own size: upsampling is OpenCV's business, what follows is ours.
    found = extents(score_map, rule(threshold, percentile, 100, 0.0, interpolation))
    values = (score_map - score_map.min()) / (score_map.max() - score_map.min())
    foreground = values > threshold * np.percentile(values, percentile)
    labels, count = scipy.ndimage.label(foreground, structure=np.ones((3, 3)))
    slices = scipy.ndimage.find_objects(labels)
    sizes = [int((labels == number + 1).sum()) for number in range(count)]
    expected = [(cut[1].start, cut[0].start, cut[1].stop, cut[0].stop) for cut in slices]
    assert sorted(map(tuple, np.round(found, 6).tolist())) == sorted(expected)
    if found:
        assert sizes[expected.index(tuple(round(side) for side in found[0]))] == max(sizes)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_boxes_lie_in_the_image_and_have_an_area(
    height: int, width: int, seed: int, threshold: float
) -> None:
    score_map = torch.randn(height, width, generator=torch.Generator().manual_seed(seed))
    found = found_in(score_map, (61, 47), rule(threshold, 90, 5, 0.0))
    assert bool(len(found.boxes)) != (found.reasons[0] is not None)
    low, high = found.boxes.corners[:, :2], found.boxes.corners[:, 2:]
    assert ((low >= 0) & (low < high) & (high <= 1)).all()
    assert ((found.boxes.score >= 0) & (found.boxes.score <= 1)).all()


CORNERS = st.lists(st.tuples(*[st.floats(0, 50) for _ in range(2)], *[st.floats(0.5, 50)] * 2))


def corners_of(sides: list[tuple[float, float, float, float]]) -> np.ndarray:
    x, y, width, height = np.array(sides).reshape(-1, 4).T
    return np.stack([x, y, x + width, y + height], axis=1)


@given(CORNERS, CORNERS)
@settings(max_examples=50)
def test_the_overlap_is_torchvisions(first: list, second: list) -> None:
    one, other = corners_of(first), corners_of(second)
    expected = box_iou(torch.from_numpy(one), torch.from_numpy(other))
    np.testing.assert_allclose(iou(one[:, None], other[None]), expected, rtol=1e-9)


def test_boxes_are_arrays_of_one_length() -> None:
    boxes = Boxes.of([[0, 0, 4, 2], [1, 1, 3, 3]], score=[0.5, 0.25], class_id=7)
    assert boxes.class_id.tolist() == [7, 7]
    assert boxes.area.tolist() == [8, 4]
    assert boxes[boxes.score > 0.3].corners.tolist() == [[0, 0, 4, 2]]
    assert boxes.scaled(np.array([2, 10]), 1).corners[:, 2].tolist() == [8, 30]
    both = Boxes.joined([boxes, Boxes.of(()), boxes])
    assert len(both) == 4
    assert both.score.tolist() == [0.5, 0.25, 0.5, 0.25]
    for wrong in ({"score": [0.1]}, {"corner": 1}):
        with pytest.raises((ValueError, TypeError)):
            Boxes.of([[0, 0, 1, 1], [0, 0, 2, 2]], **wrong)
    with pytest.raises(ValueError, match=r"\(n, 4\), got \(4,\)"):
        Boxes.of([0, 0, 1, 1])


def test_pairs_are_of_one_image_and_class_and_the_best_first() -> None:
    first = Boxes.of([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10]], image=[0, 0, 1], class_id=3)
    second = Boxes.of([[0, 0, 10, 8], [0, 0, 10, 10]], image=[0, 1], class_id=[3, 4])
    mine, other, overlap = pairs_by_overlap(first, second)
    assert (mine.tolist(), other.tolist(), overlap.tolist()) == ([1], [0], [1.0])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("offset", [0.25, -0.5, 1.0])
def test_boxes_lie_where_the_cells_look(interpolation: str, offset: float) -> None:
    """Beside OpenCV, which moves the upsampled map by as many of its pixels."""
    generator = np.random.default_rng(5)
    settings = BoxSettings.model_validate({"interpolation": interpolation, "threshold": 0.6})
    for _ in range(20):
        score_map = cv2.resize(generator.random((3, 4), np.float32), (9, 7))
        # Whole pixels: 8 a cell down and across.
        size, by = (56, 72), int(8 * offset)
        how = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
        # A margin, so that what comes in from beyond the ends is there as well.
        wide = cv2.copyMakeBorder(score_map, 4, 4, 4, 4, cv2.BORDER_REPLICATE)
        large = cv2.resize(wide, (72 + 64, 56 + 64), interpolation=how)
        moved = large[32 - by : 32 - by + 56, 32 - by : 32 - by + 72]
        expected = find_boxes(moved[None], size, settings)
        found = find_boxes(score_map[None], size, settings, offset)
        assert np.allclose(found.boxes.corners, expected.boxes.corners)
        assert np.allclose(found.boxes.score, expected.boxes.score, atol=1e-4)
