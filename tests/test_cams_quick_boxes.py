"""The quick ways to components and percentiles give what OpenCV and numpy give, to the last bit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.cams.components import components
from pipeline.cams.percentile import percentile


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
        expected = sorted(rows, key=lambda row: -row[4])  # stable, so in the order of labels
        assert components(mask, share * mask.size).tolist() == expected
        several += len(expected) > 1
    assert several > 300


def test_a_hole_in_a_hole() -> None:
    mask = np.zeros((15, 17), bool)
    for inset in range(6):  # ring in ring: 8-connected components inside of holes
        mask[inset : 15 - inset, inset : 17 - inset] = inset % 2 == 0
    found = components(mask, 0)
    assert found.tolist() == [[0, 0, 17, 15, 60], [2, 2, 13, 11, 44], [4, 4, 9, 7, 28]]


def test_percentiles_are_numpys() -> None:
    generator = np.random.default_rng(0)
    for number in range(3000):
        size = int(generator.integers(1, 400)) if number % 30 else 50176
        values = generator.random(size).astype(np.float32)
        rank = float(generator.choice([0, 100, 90, 50, 95.5, 100 * generator.random()]))
        assert percentile(values, rank) == np.percentile(values, rank)
    ties = np.repeat(np.float32([0, 0.5, 1]), 30).reshape(9, 10)
    assert percentile(ties, 90.0) == np.percentile(ties, 90.0)
