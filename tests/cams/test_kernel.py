"""The compiled boxes are those of OpenCV and numpy, one plain step after the other."""

from __future__ import annotations

import functools
import operator
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from cambox.cams.boxes import FoundBoxes, find_boxes, taps
from cambox.cams.kernel import _components, _percentile, _sum, find_components
from cambox.config_cam import BoxSettings
from reference import compare, reference_boxes, same_boxes, some_maps, upsample

MOST = 10_000


def components(mask: np.ndarray, smallest: float) -> list[list[int]]:
    """Left, top, right, bottom of each."""
    height, width = mask.shape
    padded = np.zeros((height, -(-width // 8) * 8), np.uint8)
    padded[:, :width] = mask
    extents = np.zeros((MOST, 4), np.int64)
    count = _components(padded, width, smallest, extents)
    found: list[list[int]] = extents[:count].tolist()
    return found


def masks(count: int, seed: int) -> list[np.ndarray]:
    """Noise of any density, upsampled maps, and rough blobs with holes and bridges."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        height, width = (int(side) for side in generator.integers(1, 40, 2))
        if number % 3 == 0:
            mask = generator.random((height, width)) < generator.random()
        elif number % 3 == 1:
            small = generator.normal(size=generator.integers(1, 8, 2)).astype(np.float32)
            resized = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
            mask = resized > 0.5 * generator.normal()
        else:
            noise = generator.normal(size=(height, width)).astype(np.float32)
            mask = cv2.GaussianBlur(noise, (0, 0), 1.0) > 0.2 * generator.normal()
        made.append(mask.reshape(height, width))
    return made


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1])
def test_components_are_opencvs_labels(share: float) -> None:
    several = 0
    for mask in masks(3000, seed=round(100 * share)):
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        rows = [row for row in stats[1:count].tolist() if row[4] >= share * mask.size]
        rows.sort(key=lambda row: -row[4])  # stable, so in the order of labels
        expected = [[row[0], row[1], row[0] + row[2], row[1] + row[3]] for row in rows]
        assert components(mask, share * mask.size) == expected
        several += len(expected) > 1
    assert several > 300


def test_a_hole_in_a_hole() -> None:
    mask = np.zeros((15, 17), bool)
    for inset in range(6):  # ring in ring: 8-connected components inside of holes
        mask[inset : 15 - inset, inset : 17 - inset] = inset % 2 == 0
    assert components(mask, 0) == [[0, 0, 17, 15], [2, 2, 15, 13], [4, 4, 13, 11]]
    assert components(mask, 45) == [[0, 0, 17, 15]]


def test_percentiles_are_numpys() -> None:
    generator = np.random.default_rng(0)
    for number in range(3000):
        size = int(generator.integers(1, 400)) if number % 30 else 50176
        values = generator.random(size).astype(np.float32)
        if number % 7 == 0:  # ties, and values in an order that a sample falls into step with
            values = np.sort(np.round(values * 4) / 4)
        rank = float(generator.choice([0, 100, 90, 50, 95.5, 100 * generator.random()]))
        assert _percentile(values, rank) == np.percentile(values, rank)


def test_a_sample_that_misleads_costs_time_and_no_correctness() -> None:
    values = np.zeros(50176, np.float32)
    values[::49] = 1.0  # all of the sample, and 2 % of the values
    for rank in (50.0, 90.0, 97.9, 98.5):
        assert _percentile(values, rank) == np.percentile(values, rank)


def test_all_copies_of_a_sum_add_up_in_the_same_order() -> None:
    # What is compiled alone, as a part of its caller, and kept on disk has to give the same bits.
    generator = np.random.default_rng(5)
    for height, width in generator.integers(1, 60, (200, 2)).tolist():
        # Of many magnitudes, because sums of numbers that are alike are exact in any order.
        values = (generator.random((height, width)) ** 20).astype(np.float32)
        values.flat[:2] = 0, 1
        as_it_is = taps(height, height, "bilinear"), taps(width, width, "bilinear")
        half = np.array([0.5], np.float32)
        *_, total = find_components(values[None], *as_it_is, half, 100.0, 0.0, 1, None)
        columns = [0.0] * width
        for line in values.astype(np.float64).tolist():
            columns = [above + value for above, value in zip(columns, line, strict=True)]
        expected = functools.reduce(operator.add, columns, 0.0)
        assert _sum(values, 0, 0, width, height) == expected
        if values.size > 1:
            assert total[0] == expected


@pytest.mark.parametrize("shape", [(7, 7), (14, 14), (7, 5), (1, 1), (1, 9), (28, 20)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_taps_upsample_as_opencv_does(shape: tuple[int, int], interpolation: str) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for size in ((224, 224), (112, 160), (5, 3), shape):
        rows, columns = (taps(a, b, interpolation) for a, b in zip(shape, size, strict=True))  # type: ignore[arg-type]
        down = np.zeros((size[0], shape[0]), np.float64)
        across = np.zeros((size[1], shape[1]), np.float64)
        for matrix, one in ((down, rows), (across, columns)):
            cells, weights = one
            for tap in range(4):
                np.add.at(matrix, (np.arange(len(matrix)), cells[:, tap]), weights[:, tap])
            assert matrix.sum(axis=1) == pytest.approx(1, abs=1e-6)
        expected = upsample(values, size, interpolation)
        np.testing.assert_allclose(down @ values @ across.T, expected, atol=2e-6)


def test_boxes_are_those_of_opencv_and_numpy() -> None:
    result = compare(some_maps(1500, seed=0), seed=0)
    assert result.boxes > 2000
    assert result.different == 0
    assert result.largest_score_difference < 1e-5


def test_divided_components_are_those_of_plain_steps() -> None:
    """Labels and breadth-first search over cells, one after the other, in Python."""
    maps = some_maps(120, seed=7)
    result = compare(maps, seed=7, share=(0.02, 0.5))
    assert result.boxes > 200
    assert result.different == 0
    assert result.largest_score_difference < 1e-5


def test_two_objects_side_by_side_are_two_boxes() -> None:
    """Two bumps of one height with a shallow valley between them, and a bump with a small spike."""
    down, across = np.mgrid[:28, :56]
    left = np.exp(-((down - 14) ** 2 + (across - 17) ** 2) / 72)
    right = np.exp(-((down - 14) ** 2 + (across - 34) ** 2) / 72)
    size = (112, 224)

    def boxes(score_map: np.ndarray, split: float | None) -> list[list[float]]:
        settings = BoxSettings(threshold=0.3, percentile=100, split=split)
        found = find_boxes(score_map[None].astype(np.float32), size, settings).boxes
        corners: list[list[float]] = (found.corners * [56, 28, 56, 28]).tolist()
        return corners

    two = np.maximum(left, right)
    [whole] = boxes(two, None)
    first, second = sorted(boxes(two, 0.15))
    assert whole[0] == first[0]
    assert whole[2] == second[2]
    # The valley lies in the middle of 17.5 and 34.5; parts end there, to the cell of the border.
    assert first[2] == pytest.approx(26, abs=0.5)
    assert second[0] == pytest.approx(26, abs=0.5)
    spike = left + 0.4 * np.exp(-((down - 14) ** 2 + (across - 28) ** 2) / 2)
    assert boxes(spike, 0.15) == boxes(spike, None)


def test_the_comparison_sees_a_difference() -> None:
    (score_map,) = some_maps(1, seed=3)
    settings = BoxSettings(threshold=0.35)
    found = find_boxes(score_map[None], (224, 224), settings).boxes
    assert same_boxes(found, reference_boxes(score_map, (224, 224), settings))
    other = reference_boxes(score_map, (224, 224), BoxSettings(threshold=0.7))
    assert not same_boxes(found, other)


def as_text(found: FoundBoxes, number: int) -> str:
    """All that was found of one map."""
    boxes = found.boxes[found.of_map == number]
    columns = {name: values.tolist() for name, values in vars(boxes).items() if name != "image"}
    return f"{columns} {found.reasons[number]}"


def test_a_map_does_not_depend_on_its_neighbours_nor_on_threads() -> None:
    maps = np.stack(some_maps(64, seed=1, shape=(7, 7)))
    maps[5], maps[6, 2, 2] = 0.3, np.nan
    size, settings = (112, 96), BoxSettings()
    alone = [as_text(find_boxes(one[None], size, settings), 0) for one in maps]

    def together(_: int) -> list[str]:
        found = find_boxes(maps, size, settings)
        return [as_text(found, number) for number in range(len(maps))]

    assert together(0) == alone
    with ThreadPoolExecutor(8) as pool:
        assert all(texts == alone for texts in pool.map(together, range(16)))
    nothing = find_boxes(maps[:0], size, settings)
    assert (len(nothing.boxes), nothing.reasons) == (0, ())


def test_it_compiles_where_nothing_can_be_written(tmp_path: Path) -> None:
    """As in a container with a read-only root and no home."""
    script = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numpy\n"
        "from cambox.cams.boxes import find_boxes\n"
        "from cambox.config import BoxSettings\n"
        "found = find_boxes(numpy.eye(4)[None], (8, 8), BoxSettings(percentile=100))\n"
        "assert len(found.boxes), found\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=200)
