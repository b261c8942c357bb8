"""The boxes of a map as anyone would write them with OpenCV and numpy: compiled ones equal them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from cambox.boxes import Boxes
from cambox.cams.boxes import find_boxes
from cambox.config_cam import BoxSettings

SIZES = ((224, 224), (112, 112))
_INTERPOLATIONS = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}


@dataclass(frozen=True)
class Comparison:
    """What came of comparing.

    Attributes:
        boxes: that the reference found.
        different: maps of which any box has another extent, component or edge.
        largest_score_difference: of the means inside and outside.
    """

    maps: int
    boxes: int
    different: int
    largest_score_difference: float


def upsample(
    score_map: np.ndarray, size: tuple[int, int], interpolation: str = "bicubic"
) -> np.ndarray:
    """A map (h, w) float32 at the size (height, width)."""
    # Where OpenCV hands a bicubic resize of floats to Intel's library it takes seven times as long,
    # and other machines have no such library. The switch is of this thread alone.
    handed_over = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        resized: np.ndarray = cv2.resize(
            score_map, (size[1], size[0]), interpolation=_INTERPOLATIONS[interpolation]
        )
    finally:
        cv2.ipp.setUseIPP(handed_over)
    return resized.reshape(size)


def normalise(score_map: np.ndarray) -> np.ndarray:
    """A map that varies, min-max normalised to 0..1."""
    low, high = score_map.min(), score_map.max()
    normalised: np.ndarray = (score_map - low) / (high - low)
    return normalised


def reference_boxes(score_map: np.ndarray, size: tuple[int, int], settings: BoxSettings) -> Boxes:
    """The boxes of a map (h, w) that varies, one plain step after the other."""
    height, width = size
    values = normalise(upsample(score_map, size, settings.interpolation))
    cut = np.float32(settings.threshold) * np.percentile(values, settings.percentile)
    mask = (values > cut).astype(np.uint8)
    if settings.split is not None:
        divide(values, float(cut), settings.split, mask)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = [row for row in stats[1:count].tolist() if row[4] >= settings.min_area * values.size]
    large.sort(key=lambda row: -row[4])
    corners, scores, means_outside = [], [], []
    for left, top, across, down, _ in large[: settings.max_boxes]:
        inside = np.zeros(size, bool)
        inside[top : top + down, left : left + across] = True
        corners.append([left, top, left + across, top + down])
        scores.append(values[inside].mean(dtype=np.float64))
        means_outside.append(0.0 if inside.all() else values[~inside].mean(dtype=np.float64))
    cells = Boxes.of(corners)
    reached = (cells.corners[:, :2] == 0).any(axis=1)
    reached |= (cells.corners[:, 2:] == [width, height]).any(axis=1)
    return Boxes.of(
        cells.corners / [width, height, width, height],
        component=np.arange(len(corners)),
        score=scores,
        outside=means_outside,
        touches_edge=reached,
    )


def divide(values: np.ndarray, cut: float, share: float, mask: np.ndarray) -> None:
    """Clear the borders between the parts that the regions of a mask have above a higher cut."""
    count, regions = cv2.connectedComponents(mask, connectivity=8)
    owner = np.zeros(mask.shape, int)
    for region in range(1, count):
        inside = regions == region
        for step in range(1, 5):
            higher = np.float32(cut) + (np.float32(1) - np.float32(cut)) * np.float32(step / 5)
            found, parts = cv2.connectedComponents(
                (inside & (values > higher)).astype(np.uint8), connectivity=8
            )
            large = [
                part
                for part in range(1, found)
                if np.count_nonzero(parts == part) >= share * np.count_nonzero(inside)
            ]
            if len(large) > 1:
                for part in large:
                    owner[parts == part] = owner.max() + 1
                break
    queue = deque(map(tuple, np.argwhere(owner).tolist()))
    neighbours = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    while queue:
        row, column = queue.popleft()
        for down, across in neighbours:
            at = row + down, column + across
            within = 0 <= at[0] < mask.shape[0] and 0 <= at[1] < mask.shape[1]
            if within and mask[at] and not owner[at]:
                owner[at] = owner[row, column]
                queue.append(at)
    padded = np.pad(owner, 1)
    height, width = mask.shape
    for down, across in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = padded[1 + down : 1 + down + height, 1 + across : 1 + across + width]
        mask[(owner > 0) & (other > 0) & (owner != other)] = 0


def some_maps(count: int, seed: int, shape: tuple[int, int] | None = None) -> list[np.ndarray]:
    """Maps that vary: noise, rectified noise, and noise in steps, of several shapes."""
    generator = np.random.default_rng(seed)
    made: list[np.ndarray] = []
    while len(made) < count:
        size = shape or tuple(generator.choice([(7, 7), (7, 7), (14, 14), (28, 28), (5, 9)]))
        values = generator.normal(size=size).astype(np.float32)
        kind = len(made) % 4
        if kind == 1:
            values = np.maximum(values, 0)
        elif kind == 2:
            values = np.round(2 * values)
        elif kind == 3:
            values = cv2.GaussianBlur(values, (0, 0), 1.0)
        if np.ptp(values) > 1e-3:
            made.append(values)
    return made


def same_boxes(first: Boxes, second: Boxes) -> bool:
    """Whether extents, components and edges are equal; scores may round otherwise."""
    return all(
        np.array_equal(getattr(first, column), getattr(second, column))
        for column in ("corners", "component", "touches_edge")
    )


def compare(
    maps: Iterable[np.ndarray], seed: int, share: tuple[float, float] | None = None
) -> Comparison:
    """Compare both ways on each map, under settings of its own.

    Args:
        share: bounds of ``boxes.split``; None: components stay whole.
    """
    generator = np.random.default_rng(seed)
    count = boxes = different = 0
    worst = 0.0
    for score_map in maps:
        size = SIZES[count % len(SIZES)]
        settings = BoxSettings(
            threshold=float(generator.uniform(0.05, 0.95)),
            percentile=float(generator.choice([90, 90, 100, generator.uniform(50, 100)])),
            max_boxes=int(generator.choice([1, 3, 100])),
            min_area=float(generator.choice([0, 0.01])),
            split=None if share is None else float(generator.uniform(*share)),
        )
        expected = reference_boxes(score_map, size, settings)
        found = find_boxes(score_map[None], size, settings).boxes
        count += 1
        boxes += len(expected)
        if not same_boxes(found, expected):
            different += 1
            continue
        for column in ("score", "outside"):
            apart = np.abs(getattr(found, column) - getattr(expected, column))
            worst = max(worst, apart.max(initial=0))
    return Comparison(count, boxes, different, worst)
