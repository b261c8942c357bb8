"""How many maps point at their object, and what chance alone makes of the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from cambox.cams import BoxRule, boxes_from_map
from research.map_variants import Pair

RESAMPLES = 2000
IOU = 0.5


@dataclass(frozen=True)
class Interval:
    """Where 95 % of the resamples lie."""

    low: float
    high: float


def hits(
    maps: torch.Tensor, pairs: tuple[Pair, ...], size: tuple[int, int], rule: BoxRule
) -> NDArray[np.bool_]:
    """(P,): whether the largest box of each pair's map has IoU 0.5 with one of its true boxes.

    Args:
        maps: (N, K, h, w).
        size: (height, width) that maps are upsampled to.
    """
    found = np.zeros(len(pairs), dtype=np.bool_)
    for index, pair in enumerate(pairs):
        boxes = boxes_from_map(maps[pair.image, pair.class_id], size, rule).boxes
        if boxes:
            box = boxes[0]
            mine = torch.tensor([[box.x_min, box.y_min, box.x_max, box.y_max]])
            found[index] = bool((box_iou(mine, pair.boxes) >= IOU).any())
    return found


def resampled_counts(images: int, seed: int = 0) -> NDArray[np.int64]:
    """(R, images): how often each picture is drawn when as many are drawn with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)


def resampled_rates(
    hit: NDArray[np.bool_], pairs: tuple[Pair, ...], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(R, T): the rates of resampled pictures, for hits (T, P) at T thresholds.

    Pictures are drawn, not pairs: the pairs of one picture share its difficulty.
    """
    weight = counts[:, [pair.image for pair in pairs]].astype(np.float64)
    return np.asarray((weight @ hit.T) / weight.sum(axis=1, keepdims=True))


def interval(values: NDArray[np.float64]) -> Interval:
    """The middle 95 % of values (R,)."""
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high))


def interval_of(
    statistic: Callable[[NDArray[np.int64]], float], count: int, resamples: int, seed: int = 0
) -> Interval:
    """The interval of a number made of ``count`` samples, of which it is given drawn indices."""
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(count, size=count) for _ in range(resamples))
    return interval(np.array([statistic(indices) for indices in drawn]))
