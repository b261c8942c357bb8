"""From a low-resolution score map to values between 0 and 1 at the input's resolution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

# OpenCV and not torch: torch rounds differently with the number of threads, and the boxes of an
# image must not depend on who computed them.
Interpolation = Literal["bicubic", "bilinear"]
INTERPOLATIONS = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}
# How much a bicubic interpolation overshoots; OpenCV's choice.
SHARPNESS = np.float32(-0.75)


def upsample(
    score_map: np.ndarray,
    size: tuple[int, int],
    interpolation: Interpolation = "bicubic",
) -> np.ndarray:
    """Resize a map (h, w) float32 to ``size`` (height, width)."""
    # Where OpenCV hands a bicubic resize of floats to Intel's library it takes seven times as long,
    # and other machines have no such library. The switch is of this thread alone.
    handed_over = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        resized: np.ndarray = cv2.resize(
            score_map, (size[1], size[0]), interpolation=INTERPOLATIONS[interpolation]
        )
    finally:
        cv2.ipp.setUseIPP(handed_over)
    return resized


def normalise(score_map: np.ndarray) -> np.ndarray:
    """Min-max normalise a map to 0..1.

    As in the paper's code, this follows the upsampling: a bicubic resize overshoots, and the
    thresholds refer to the extremes after it.

    Raises:
        ValueError: the map is constant.
    """
    low, high = float(score_map.min()), float(score_map.max())
    if not high > low:
        raise ValueError(f"a constant map of {low} cannot be normalised")
    normalised: np.ndarray = (score_map - np.float32(low)) / np.float32(high - low)
    return normalised


@dataclass(frozen=True)
class Taps:
    """Which cells of a line each cell of the finer line is made of, and their weights.

    Attributes:
        cells: (finer, 4) int32.
        weights: (finer, 4) float32; each row adds up to 1.
    """

    cells: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=64)
def taps(coarse: int, fine: int, interpolation: Interpolation) -> Taps:
    """How ``upsample`` makes a line of ``fine`` cells from one of ``coarse``.

    Computed in float32, as OpenCV does it; beyond the ends the last cell goes on.
    """
    one = np.float32(1)
    position = ((np.arange(fine) + 0.5) * (1 / (fine / coarse)) - 0.5).astype(np.float32)
    cell = np.floor(position).astype(np.int32)
    if interpolation == "bilinear":
        beyond = (cell < 0) | (cell >= coarse - 1)
        share = np.where(beyond, np.float32(0), position - cell.astype(np.float32))
        nothing = np.zeros_like(share)
        weights, reach = [one - share, share, nothing, nothing], np.array([0, 1, 0, 0])
    else:
        share = position - cell.astype(np.float32)
        two, three, four = SHARPNESS + np.float32(2), SHARPNESS + np.float32(3), 4 * SHARPNESS
        far = ((SHARPNESS * (share + one) - 5 * SHARPNESS) * (share + one) + 2 * four) * (
            share + one
        ) - four
        near = (two * share - three) * share * share + one
        rest = one - share
        next_near = (two * rest - three) * rest * rest + one
        weights, reach = [far, near, next_near, one - far - near - next_near], np.arange(-1, 3)
    cells = np.clip(cell[:, None] + reach, 0, coarse - 1).astype(np.int32)
    return Taps(cells, np.ascontiguousarray(np.stack(weights, axis=1), dtype=np.float32))
