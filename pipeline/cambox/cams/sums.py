"""Sums over boxes of cells, compiled: the mean of a thousand classes in thousands of boxes.

With the sums above and left of each corner of a cell known, a box takes a few additions a class.
A large temporary array costs more here than what is computed, so everything goes in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cambox.cams.kernel import compiled

Floats = NDArray[np.float32]


@compiled
def integral(values: Floats) -> Floats:
    """The sums (h + 1, w + 1, k) of values (h, w, k) above and left of each corner of a cell."""
    height, width, depth = values.shape
    summed = np.empty((height + 1, width + 1, depth), np.float32)
    summed[0] = 0
    above = np.zeros((width, depth), np.float64)
    left = np.empty(depth, np.float64)
    for row in range(height):
        summed[row + 1, 0] = 0
        left[:] = 0
        for column in range(width):
            value, column_sum = values[row, column], above[column]
            made = summed[row + 1, column + 1]
            for place in range(depth):
                column_sum[place] += value[place]
                left[place] += np.float32(column_sum[place])
                made[place] = left[place]
    return summed


@compiled
def window_means(summed: Floats, cells: NDArray[np.int64]) -> Floats:
    """The means (n, k) of the cells of windows.

    Args:
        summed: (h + 1, w + 1, k), see ``integral``.
        cells: (n, 4) top, left, bottom, right, half-open.
    """
    means = np.empty((len(cells), summed.shape[2]), np.float32)
    for number in range(len(cells)):
        top, left, bottom, right = cells[number]
        whole, above = summed[bottom, right], summed[top, right]
        beside, both = summed[bottom, left], summed[top, left]
        area = np.float32((bottom - top) * (right - left))
        made = means[number]
        for place in range(made.size):
            made[place] = (whole[place] - above[place] - beside[place] + both[place]) / area
    return means


@compiled
def mean_in(summed: Floats, corners: NDArray[np.float64]) -> Floats:
    """The means (n, k) of values of cells in boxes; of a cell counts the part that a box covers.

    Args:
        summed: (h + 1, w + 1, k), see ``integral``. Between the corners of a cell it is bilinear,
            so that it is exact for boxes that end within cells.
        corners: (n, 4), shares of the image.
    """
    height, width = summed.shape[0] - 1, summed.shape[1] - 1
    means = np.zeros((len(corners), summed.shape[2]), np.float32)
    for number in range(len(corners)):
        left, top, right, bottom = corners[number]
        rows, down = _ends(top * height, bottom * height, height)
        columns, across = _ends(left * width, right * width, width)
        made = means[number]
        for vertical in range(4):
            for horizontal in range(4):
                weight = np.float32(down[vertical] * across[horizontal])
                values = summed[rows[vertical], columns[horizontal]]
                for place in range(made.size):
                    made[place] += weight * values[place]
    return means


@compiled
def _ends(
    low: float, high: float, cells: int
) -> tuple[tuple[int, int, int, int], tuple[float, float, float, float]]:
    """Of a line from low to high: the cells' corners around both ends, and what each counts.

    Returns:
        four corners, and the weights by which their sums give the mean along the line.
    """
    first = min(max(int(np.floor(low)), 0), cells - 1)
    last = min(max(int(np.floor(high)), 0), cells - 1)
    into_first, into_last = low - first, high - last
    length = max(high - low, 1e-6)
    return (
        (first, first + 1, last, last + 1),
        (
            (into_first - 1) / length,
            -into_first / length,
            (1 - into_last) / length,
            into_last / length,
        ),
    )


@dataclass(frozen=True)
class Members:
    """The members of G groups one after the other.

    Attributes:
        ids: of the first group, then of the second.
        ends: (G,) where each group ends.
    """

    ids: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]]) -> Members:
        """Of lists of members."""
        return cls(np.concatenate(groups).astype(np.int64), np.cumsum([*map(len, groups)]))

    def sums(self, values: Floats) -> Floats:
        """The sums (n, G) of the members' values (n, K)."""
        return _member_sums(values, self.ids, self.ends)


@compiled
def _member_sums(values: Floats, ids: NDArray[np.int64], ends: NDArray[np.int64]) -> Floats:
    sums = np.empty((len(values), ends.size), np.float32)
    for row in range(len(values)):
        first = 0
        for group in range(ends.size):
            total = np.float32(0)
            for place in range(first, ends[group]):
                total += values[row, ids[place]]
            sums[row, group] = total
            first = ends[group]
    return sums
