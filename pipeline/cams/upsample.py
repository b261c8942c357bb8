"""From a low-resolution score map to values between 0 and 1 at the input's resolution."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

# OpenCV and not torch: torch rounds differently with the number of threads, and the boxes of an
# image must not depend on who computed them.
INTERPOLATIONS = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}


def upsample(
    score_map: np.ndarray,
    size: tuple[int, int],
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
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
