"""The connected components of a mask: how large, and how far they reach."""

from __future__ import annotations

import cv2
import numpy as np

# Columns of a component's row.
LEFT, TOP, WIDTH, HEIGHT, AREA = range(5)


def components(foreground: np.ndarray, smallest: float) -> np.ndarray:
    """The 8-connected components of at least so many cells, the largest first.

    Components of one size come in the order in which OpenCV labels them.

    Args:
        foreground: (h, w) bool.
        smallest: cells, may be a fraction.

    Returns:
        (n, 5) int: left, top, width, height and number of cells of each.
    """
    stats = _by_outline(foreground, smallest)
    if len(np.unique(stats[:, AREA])) < len(stats):
        stats = _by_label(foreground, smallest)
    # A stable sort, for the components of one size.
    ordered: np.ndarray = stats[np.argsort(-stats[:, AREA], kind="stable")]
    return ordered


def _by_label(foreground: np.ndarray, smallest: float) -> np.ndarray:
    _, _, stats, _ = cv2.connectedComponentsWithStats(foreground.view(np.uint8), connectivity=8)
    large: np.ndarray = stats[1:][stats[1:, AREA] >= smallest]
    return large


def _by_outline(foreground: np.ndarray, smallest: float) -> np.ndarray:
    """Walks along outlines, which for the smooth blobs of a map is quicker than labelling cells.

    A closed walk of L steps over cell centres that encloses the area A has A + L / 2 + 1 cells on
    and in it (Pick's theorem); a hole, walked along the cells around it, has A - L / 2 + 1 in it.
    """
    outlines, hierarchy = cv2.findContours(
        foreground.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    found = []
    for index, outline in enumerate(outlines):
        _, _, hole, parent = hierarchy[0, index]
        if parent >= 0:
            continue
        cells = cv2.contourArea(outline) + _steps(outline) / 2 + 1
        if cells < smallest:
            continue
        while hole >= 0:
            inner = outlines[hole]
            cells -= cv2.contourArea(inner) - _steps(inner) / 2 + 1
            hole = hierarchy[0, hole, 0]
        if cells >= smallest:
            found.append((*cv2.boundingRect(outline), round(cells)))
    return np.array(found, dtype=np.int64).reshape(-1, 5)


def _steps(outline: np.ndarray) -> int:
    """Of the walk; a single cell takes none."""
    return len(outline) if len(outline) > 1 else 0
