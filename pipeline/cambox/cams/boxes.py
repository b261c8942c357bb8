"""From score maps to pseudo boxes: threshold, connected components, extents."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from cambox.boxes import Boxes
from cambox.cams.geometry import MapGeometry
from cambox.cams.kernel import CONSTANT, FOUND, NON_FINITE, Taps, find_components
from cambox.config_cam import BoxSettings

# How much a bicubic interpolation overshoots; OpenCV's choice.
SHARPNESS = np.float32(-0.75)
# Room for the most boxes of each is taken at once, and boxes.max_boxes may be large.
MAPS_AT_ONCE = 64


class NoBoxReason(enum.StrEnum):
    """Why a map gave no box."""

    constant_map = "constant_map"
    non_finite_map = "non_finite_map"
    too_small = "too_small"
    low_score = "low_score"
    overlapping_class = "overlapping_class"


_REASONS = {
    NON_FINITE: NoBoxReason.non_finite_map,
    CONSTANT: NoBoxReason.constant_map,
    FOUND: NoBoxReason.too_small,
}


@dataclass(frozen=True)
class FoundBoxes:
    """The boxes of m maps, and of each map without any why.

    Attributes:
        boxes: corners as shares of the image; ascending by map, and by ``component`` within it.
        of_map: (n,) the map that each box is of.
        reasons: (m,) None for a map with a box.
    """

    boxes: Boxes
    of_map: np.ndarray
    reasons: tuple[NoBoxReason | None, ...]

    def only(self, kept: np.ndarray, reason: NoBoxReason) -> FoundBoxes:
        """Some of the boxes, (n,) bool, counted from component 0 again.

        Args:
            reason: of the maps that lose their last box.
        """
        if kept.all():
            return self
        of_map = self.of_map[kept]
        left = np.bincount(of_map, minlength=len(self.reasons))
        starts = np.cumsum(left) - left
        boxes = self.boxes[kept].with_columns(component=np.arange(len(of_map)) - starts[of_map])
        return FoundBoxes(
            boxes,
            of_map,
            tuple(
                reason if before is None and not count else before
                for before, count in zip(self.reasons, left.tolist(), strict=True)
            ),
        )


def find_boxes(
    score_maps: Any, size: tuple[int, int], settings: BoxSettings, offset: float = 0.0
) -> FoundBoxes:
    """Turn score maps into boxes.

    Each map is upsampled to ``size``, min-max normalised, and cut at ``threshold x percentile``
    (strictly above; paper, section 3.3). The 8-connected components that are left, largest
    first, give one box each, with the mean of the map inside it as its score. The boxes are those
    of OpenCV's and numpy's functions one after the other; it is one compiled pass here, which
    other threads need not wait for.

    Args:
        score_maps: (m, h, w), any range: an array, or a tensor on the CPU.
        size: (height, width) to upsample to; more is finer and slower.
        settings: threshold, percentile, split, max_boxes, min_area and interpolation are read.
        offset: how many cells further right and down than it lies a cell looks.

    Raises:
        ValueError: the maps are not (m, h, w).
    """
    maps = np.ascontiguousarray(score_maps, np.float32)
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f"expected maps of shape (m, h, w), got {maps.shape}")
    height, width = size
    # No two components share a block of two by two cells.
    most = min(settings.max_boxes, -(-height // 2) * -(-width // 2))
    outcomes, counts, extents, sums, totals = find_components(
        maps,
        taps(maps.shape[1], height, settings.interpolation, offset),
        taps(maps.shape[2], width, settings.interpolation, offset),
        np.array([settings.threshold], np.float32),
        float(settings.percentile),
        settings.min_area * (height * width),
        most,
        settings.split,
    )
    of_map, component = np.nonzero(np.arange(most) < counts[:, None])
    left, top, right, bottom = extents[of_map, component].T
    inside, total = sums[of_map, component], totals[of_map]
    cells = (right - left) * (bottom - top)
    around = height * width - cells
    boxes = Boxes.of(
        np.stack([left / width, top / height, right / width, bottom / height], axis=1),
        image=of_map,
        component=component,
        score=inside / cells,
        outside=np.maximum(0.0, total - inside) / np.maximum(around, 1) * (around > 0),
        touches_edge=(left == 0) | (top == 0) | (right == width) | (bottom == height),
    )
    reasons = [
        None if count else _REASONS[outcome]
        for outcome, count in zip(outcomes.tolist(), counts.tolist(), strict=True)
    ]
    return FoundBoxes(boxes, of_map, tuple(reasons))


def find_boxes_by_shape(
    score_maps: Iterable[np.ndarray], geometry: MapGeometry, settings: BoxSettings
) -> FoundBoxes:
    """Turn maps that may differ in shape into boxes; see ``find_boxes``.

    Args:
        score_maps: (h, w) each; quickest where those of one shape follow each other.
        geometry: of the network that they are of.
    """
    parts: list[FoundBoxes] = []
    first = 0
    of_map: list[np.ndarray] = [np.zeros(0, np.int64)]
    reasons: list[NoBoxReason | None] = []
    for shape, of_shape in itertools.groupby(score_maps, key=lambda one: one.shape):
        size = geometry.upsampled_size(settings, shape)
        while part := list(itertools.islice(of_shape, MAPS_AT_ONCE)):
            parts.append(find_boxes(np.stack(part), size, settings, geometry.offset))
            of_map.append(parts[-1].of_map + first)
            reasons += parts[-1].reasons
            first += len(part)
    boxes = Boxes.joined(part.boxes for part in parts)
    return FoundBoxes(boxes, np.concatenate(of_map), tuple(reasons))


@lru_cache(maxsize=64)
def taps(
    coarse: int, fine: int, interpolation: Literal["bicubic", "bilinear"], offset: float = 0.0
) -> Taps:
    """Which cells of a line of ``coarse`` each cell of one of ``fine`` is made of, and how much.

    Computed in float32, as OpenCV does it; beyond the ends the last cell goes on.

    Args:
        offset: so many cells of ``coarse`` further on lies what a cell of it tells of.

    Returns:
        (fine, 4) int32 cells, and (fine, 4) float32 weights, of which each row adds up to 1.
    """
    one = np.float32(1)
    position = (np.arange(fine) + 0.5) * (1 / (fine / coarse)) - 0.5 - offset
    position = position.astype(np.float32)
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
    return cells, np.ascontiguousarray(np.stack(weights, axis=1), dtype=np.float32)
