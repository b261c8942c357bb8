"""Where many looks at an image see a class: the candidates for its boxes.

A look is one map of one size, or one window of it. Each gives regions at several thresholds; which
of them are right is decided by how far the looks agree (``agreement``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cambox.boxes import iou
from cambox.cams.boxes import taps
from cambox.cams.kernel import find_components
from cambox.cams.pyramid import Level, refined_windows

Array = NDArray[np.float64]

# Shares of a map's range.
REFINED_THRESHOLDS = (0.4, 0.5, 0.6, 0.7)
PLAIN_THRESHOLDS = (0.3, 0.5)
WINDOW_THRESHOLDS = (0.3, 0.5, 0.7)
REGIONS_OF_WHOLE, REGIONS_OF_WINDOW = 4, 2
FINER = 4  # Regions are found on a grid so many times finer than the map.
WINDOWS_OF_LEVEL = 5
WINDOW_OVERLAP = 0.4


@dataclass(frozen=True)
class Candidates:
    """The boxes of one class of an image, from all looks.

    Attributes:
        corners: (n, 4), shares of the image.
        look: (n,) int, the look that each is from, counted from 0 without gaps.
        cut: (n,) bool, at an edge of its window that is none of the image: perhaps cut off.
    """

    corners: Array
    look: NDArray[np.int64]
    cut: NDArray[np.bool_]


@dataclass(frozen=True)
class Windows:
    """The windows of one level, and how likely each shows each of c classes.

    Attributes:
        cells: (n, 4), top, left, bottom, right, half-open.
        log_posterior: (n, c).
    """

    cells: NDArray[np.int64]
    log_posterior: Array


def candidates(
    levels: Sequence[Level],
    windows: Sequence[Windows],
    groups: Sequence[Sequence[int]],
    windows_of_class: int,
) -> list[Candidates]:
    """The candidates of each class: regions of the maps of each level, and of the best windows.

    Args:
        levels: of the image.
        windows: of the levels that are not mirrored, in their order.
        groups: of each of c classes the network's classes that it is.
        windows_of_class: of all levels, to look into.

    Returns:
        c of them; one whose maps are all constant has none.
    """
    if not groups:
        return []
    # Of each class and look: the regions in its frame, and the frame in the image.
    seen: list[list[tuple[Array, Array]]] = [[] for _ in groups]
    whole = np.array([0.0, 0.0, 1.0, 1.0])
    for level in levels:
        pairs = [level.group(members) for members in groups]
        logits = torch.stack([logit for logit, _ in pairs])
        posteriors = torch.stack([posterior for _, posterior in pairs]).exp()
        refined = level.refined(torch.cat([logits, posteriors]))
        (plain,) = F.interpolate(
            logits[None], size=level.finer, mode="bilinear", align_corners=False
        )
        found = [
            *regions(refined, REFINED_THRESHOLDS, REGIONS_OF_WHOLE),
            *regions(plain, PLAIN_THRESHOLDS, REGIONS_OF_WHOLE),
        ]
        for number, corners in enumerate(found):
            seen[number % len(groups)].append((corners, whole))
    upright = [level for level in levels if not level.mirrored]
    chosen = [
        (number, level, cells)
        for number in range(len(groups))
        for level, cells in best_windows(upright, windows, number, windows_of_class)
    ]
    parts = [level.window(level.group(groups[number])[0], cells) for number, level, cells in chosen]
    for (number, level, cells), corners in zip(chosen, _in_windows(parts), strict=True):
        seen[number].append((corners, as_shares(cells, level.size)))
    return [_joined(looks) for looks in seen]


def _in_windows(parts: Sequence[tuple[torch.Tensor, ...]]) -> list[Array]:
    """The regions (n, 4) in each window, see ``Level.window``; those of one shape at once."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for place, (score_map, *_) in enumerate(parts):
        by_shape[score_map.shape].append(place)
    found: dict[int, Array] = {}
    for places in by_shape.values():
        refined = refined_windows([parts[place] for place in places])
        of_shape = regions(refined, WINDOW_THRESHOLDS, REGIONS_OF_WINDOW)
        found.update(zip(places, of_shape, strict=True))
    return [found[place] for place in range(len(parts))]


def regions(maps: torch.Tensor, thresholds: Sequence[float], most: int) -> list[Array]:
    """Of each map (m, h, w), the extents (n, 4) of its largest regions above each threshold.

    Args:
        thresholds: shares of the map's range.
        most: regions of each threshold.

    Returns:
        m arrays, corners as shares of the map.
    """
    height, width = FINER * maps.shape[1], FINER * maps.shape[2]
    # As ``find_boxes``, without what is not needed here: these are many small maps.
    _, counts, extents, _, _ = find_components(
        np.ascontiguousarray(maps),
        taps(maps.shape[1], height, "bilinear"),
        taps(maps.shape[2], width, "bilinear"),
        np.array(thresholds, np.float32),
        100.0,
        0.0,
        most,
        None,
    )
    corners = extents[np.arange(most) < counts[:, None]] / np.array([width, height, width, height])
    ends = counts.reshape(len(maps), len(thresholds)).sum(axis=1).cumsum()
    return np.split(corners, ends[:-1])


def best_windows(
    levels: Sequence[Level], windows: Sequence[Windows], place: int, most: int
) -> Iterator[tuple[Level, NDArray[np.int64]]]:
    """The windows of all levels where a class is likeliest, few of them alike.

    Args:
        place: of the class among those of the windows.

    Yields:
        The level of each and its cells (4,), the likeliest first.
    """
    found: list[tuple[float, int, int]] = []
    for number, (level, some) in enumerate(zip(levels, windows, strict=True)):
        posterior = some.log_posterior[:, place]
        best = apart(as_shares(some.cells, level.size), posterior, WINDOW_OVERLAP, WINDOWS_OF_LEVEL)
        found += [(-float(posterior[one]), number, one) for one in best]
    for _, number, one in sorted(found)[:most]:
        yield levels[number], windows[number].cells[one]


def as_shares(cells: NDArray[np.int64], size: tuple[int, int]) -> Array:
    """Cells (..., 4) top, left, bottom, right as corners in shares of a grid's size."""
    height, width = size
    return np.asarray(cells[..., [1, 0, 3, 2]] / np.array([width, height, width, height]))


def apart(corners: Array, scores: Array, overlap: float, most: int) -> list[int]:
    """The places of the best boxes of which no two have an IoU of ``overlap`` or more."""
    live = np.array(scores, np.float64)
    kept: list[int] = []
    while len(kept) < min(most, len(live)):
        best = int(live.argmax())
        if live[best] == -np.inf:
            break
        kept.append(best)
        live[iou(corners[best], corners) >= overlap] = -np.inf
        live[best] = -np.inf
    return kept


def _joined(seen: Sequence[tuple[Array, Array]]) -> Candidates:
    looks = [(corners, frame) for corners, frame in seen if len(corners)]
    sizes = [len(corners) for corners, _ in looks]
    corners = np.concatenate([np.zeros((0, 4)), *(corners for corners, _ in looks)])
    frames = np.array([frame for _, frame in looks]).reshape(-1, 4).repeat(sizes, axis=0)
    low, high = frames[:, :2], frames[:, 2:]
    at_edge = np.hstack([(corners[:, :2] <= 0) & (low > 0), (corners[:, 2:] >= 1) & (high < 1)])
    return Candidates(
        np.tile(low, 2) + corners * np.tile(high - low, 2),
        np.repeat(np.arange(len(looks)), sizes),
        np.asarray(at_edge.any(axis=1)),
    )
