"""How many maps point at their object, and what chance alone makes of the difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cambox.boxes import best_overlaps
from cambox.cams.boxes import find_boxes
from cambox.config import BoxSettings

RESAMPLES = 2000
IOUS = (0.3, 0.5, 0.7)
LARGEST, ANY = 0, 1


@dataclass(frozen=True)
class Interval:
    """Where 95 % of the resamples lie."""

    low: float
    high: float


def overlaps(
    maps: NDArray[np.float32],
    true_corners: Sequence[NDArray[np.float64]],
    side: int,
    thresholds: Sequence[float] | NDArray[np.float64],
    **settings: float,
) -> NDArray[np.float64]:
    """How well the boxes of maps fit at each threshold, a share of the map's maximum.

    Args:
        maps: (m, h, w), of an image and a class each.
        true_corners: of each map (n, 4), shares of the image.
        side: height and width that maps are upsampled to.
        settings: of boxes, others than the defaults.

    Returns:
        (2, m, thresholds) the best IoU with a true box, 0 to 1: of the ``LARGEST`` component's
        box, and of ``ANY`` component's. 0 where there is no box.
    """
    best = np.zeros((2, len(maps), len(thresholds)))
    for column, threshold in enumerate(thresholds):
        rule = BoxSettings.model_validate({"threshold": threshold, "percentile": 100, **settings})
        found = find_boxes(maps, (side, side), rule)
        for number, true in enumerate(true_corners):
            each = best_overlaps(found.boxes.corners[found.of_map == number], true)
            if len(each):
                best[:, number, column] = each[0], each.max()
    return best


def resampled_counts(images: int, seed: int = 0) -> NDArray[np.int64]:
    """(R, images): how often each picture is drawn when as many are drawn with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)


def resampled_rates(
    hit: NDArray[np.bool_], pictures: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(R, T): the rates of resampled pictures, for hits (P, T) of pairs at T thresholds.

    Pictures are drawn, not pairs: the pairs of one picture share its difficulty.

    Args:
        pictures: (P,) of each pair.
    """
    weight = counts[:, pictures].astype(np.float64)
    return np.asarray((weight @ hit) / weight.sum(axis=1, keepdims=True))


def interval(values: NDArray[np.float64]) -> Interval:
    """The middle 95 % of values (R,)."""
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high))


def interval_of(
    statistic: Callable[[NDArray[np.int64]], float], count: int, resamples: int = RESAMPLES
) -> Interval:
    """The interval of a number made of ``count`` samples, of which it is given drawn indices."""
    generator = np.random.default_rng(0)
    drawn = (generator.integers(count, size=count) for _ in range(resamples))
    return interval(np.array([statistic(indices) for indices in drawn]))
