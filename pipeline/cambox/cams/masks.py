"""From a score map and the boxes that were made of it, back to the cells of their components."""

from __future__ import annotations

import cv2
import numpy as np

from cambox.boxes import iou
from cambox.config_cam import BoxSettings

_INTERPOLATION = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}
_CONNECTIVITY = 8


def masks_of_boxes(
    score_map: np.ndarray, corners: np.ndarray, size: tuple[int, int], settings: BoxSettings
) -> np.ndarray:
    """Which cells of an upsampled map are of each box: above the cut, and of its component.

    The map is upsampled, normalised and cut as ``find_boxes`` does it. Of what is left inside a box
    the component counts whose own extent is most like it; where ``boxes.split`` has divided a
    region, that is what of the region lies in the box.

    Args:
        score_map: (h, w), any range.
        corners: (n, 4) x_min, y_min, x_max, y_max as shares of the image.
        size: (height, width) to upsample to, as the boxes' map was.
        settings: threshold, percentile and interpolation are read.

    Returns:
        (n, height, width) bool; empty where the map does not rise above the cut inside a box.
    """
    height, width = size
    kind = _INTERPOLATION[settings.interpolation]
    values = cv2.resize(np.asarray(score_map, np.float32), (width, height), interpolation=kind)
    span = np.ptp(values)
    values = (values - values.min()) / (span or np.float32(1))
    cut = np.float32(settings.threshold) * np.percentile(values, settings.percentile)
    above = values > np.float32(cut)
    masks = np.zeros((len(corners), height, width), bool)
    cells = np.rint(corners * ([width, height] * 2)).astype(int)
    for mask, box in zip(masks, cells, strict=True):
        left, top, right, bottom = box.tolist()
        inside = above[top:bottom, left:right]
        mask[top:bottom, left:right] = _most_like_the_whole(inside)
    return masks


def _most_like_the_whole(inside: np.ndarray) -> np.ndarray:
    """The component (h, w) bool whose extent covers most of (h, w); the larger of equal ones."""
    if not inside.any():
        return inside
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        inside.astype(np.uint8), connectivity=_CONNECTIVITY
    )
    left, top, wide, high, cells = stats[1:count].T
    extents = np.stack([left, top, left + wide, top + high], axis=1).astype(np.float64)
    whole = np.array([0, 0, *inside.shape[::-1]], np.float64)
    best = np.lexsort((cells, iou(extents, whole)))[-1]
    chosen: np.ndarray = labels == best + 1
    return chosen
