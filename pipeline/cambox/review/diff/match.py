"""Which box of one output is which of the other: by image and class, the best overlap first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BoxSet:
    """Boxes side by side.

    Attributes:
        image, class_id: (n,) int64; boxes are matched where both are equal.
        corners: (n, 4) float64, x_min, y_min, x_max, y_max, half-open, in pixels.
        score: (n,) float64, box_score.
    """

    image: np.ndarray
    class_id: np.ndarray
    corners: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Pairs of boxes that overlap, each box in one pair at most.

    Attributes:
        first, second: (m,) places in the two sets.
        overlap: (m,) IoU, above 0, at most 1.
    """

    first: np.ndarray
    second: np.ndarray
    overlap: np.ndarray


def match_boxes(first: BoxSet, second: BoxSet) -> Matches:
    """Pair the boxes greedily: of all pairs of one image and class, the largest IoU first.

    Between pairs of equal IoU, the one that comes first in the sets is taken.
    """
    mine, other = _candidates(first, second)
    overlap = _overlap(first.corners[mine], second.corners[other])
    order = np.lexsort((other, mine, -overlap))
    order = order[overlap[order] > 0]
    taken_first: set[int] = set()
    taken_second: set[int] = set()
    pairs = []
    for at, one, two in zip(
        order.tolist(), mine[order].tolist(), other[order].tolist(), strict=True
    ):
        if one not in taken_first and two not in taken_second:
            taken_first.add(one)
            taken_second.add(two)
            pairs.append(at)
    kept = np.array(pairs, np.int64)
    return Matches(mine[kept], other[kept], overlap[kept])


def _candidates(first: BoxSet, second: BoxSet) -> tuple[np.ndarray, np.ndarray]:
    """The places of all pairs of one image and class."""
    key, other_key = _key(first), _key(second)
    order = np.argsort(other_key, kind="stable")
    start = np.searchsorted(other_key[order], key, side="left")
    count = np.searchsorted(other_key[order], key, side="right") - start
    mine = np.repeat(np.arange(len(key)), count)
    within = np.arange(len(mine)) - np.repeat(np.cumsum(count) - count, count)
    return mine, order[np.repeat(start, count) + within]


def _key(boxes: BoxSet) -> np.ndarray:
    key: np.ndarray = (boxes.image << 32) + boxes.class_id
    return key


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) the IoU of each pair of (n, 4) boxes."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    common = np.clip(sides, 0, None).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    overlap: np.ndarray = common / (areas[0] + areas[1] - common)
    return overlap
