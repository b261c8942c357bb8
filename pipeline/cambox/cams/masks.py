"""From a score map and the boxes that were made of it, back to the cells of their components."""

from __future__ import annotations

import cv2
import numpy as np

from cambox.boxes import iou
from cambox.cams.boxes import taps
from cambox.cams.kernel import cells_above
from cambox.config_cam import BoxSettings

_CONNECTIVITY = 8


def masks_of_boxes(
    score_map: np.ndarray,
    corners: np.ndarray,
    size: tuple[int, int],
    settings: BoxSettings,
    offset: float = 0.0,
) -> np.ndarray:
    """Which cells of an upsampled map are of each box: above the cut, and of its component.

    The cells are those of ``find_boxes``. Of the components that reach into a box it has the one
    whose extent there is most like it, which is its own.

    Args:
        score_map: (h, w), any range.
        corners: (n, 4) x_min, y_min, x_max, y_max as shares of the image.
        size: (height, width) to upsample to, as the boxes' map was.
        settings: threshold, percentile, split and interpolation are read.
        offset: see ``find_boxes``.

    Returns:
        (n, height, width) bool; empty where the map does not rise above the cut inside a box.
    """
    height, width = size
    above = cells_above(
        np.ascontiguousarray(score_map, np.float32),
        taps(score_map.shape[0], height, settings.interpolation, offset),
        taps(score_map.shape[1], width, settings.interpolation, offset),
        np.float32(settings.threshold),
        float(settings.percentile),
        settings.split,
    )
    masks = np.zeros((len(corners), height, width), bool)
    cells = np.rint(corners * ([width, height] * 2)).astype(int)
    for mask, (left, top, right, bottom) in zip(masks, cells.tolist(), strict=True):
        mask[top:bottom, left:right] = _most_like_the_whole(above[top:bottom, left:right])
    return masks


def _most_like_the_whole(inside: np.ndarray) -> np.ndarray:
    """The component (h, w) bool whose extent covers most of (h, w); the larger of equal ones."""
    if not inside.any():
        return inside.astype(bool)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(inside), connectivity=_CONNECTIVITY
    )
    left, top, wide, high, cells = stats[1:].T
    extents = np.stack([left, top, left + wide, top + high], axis=1).astype(np.float64)
    whole = np.array([0, 0, *inside.shape[::-1]], np.float64)
    best = np.lexsort((cells, iou(extents, whole)))[-1]
    chosen: np.ndarray = labels == best + 1
    return chosen
