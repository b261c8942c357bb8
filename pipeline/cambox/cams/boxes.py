"""From score maps to pseudo boxes: threshold, connected components, extents."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from cambox.cams.kernel import CONSTANT, FOUND, NON_FINITE, find_components
from cambox.cams.upsample import taps


class NoBoxReason(enum.StrEnum):
    """Why a map gave no box."""

    constant_map = "constant_map"
    non_finite_map = "non_finite_map"
    too_small = "too_small"
    low_score = "low_score"
    overlapping_class = "overlapping_class"


@dataclass(frozen=True, slots=True)
class BoxRule:
    """How a map becomes boxes.

    Attributes:
        threshold: tau, 0 to 1.
        percentile: 0 to 100; the value that tau refers to (PaS). 100 is the maximum.
        max_boxes: the most boxes of one map, largest component first.
        min_area: smallest component, as a share of the map's area, 0 to 1.
        interpolation: how the map is upsampled.
    """

    threshold: float = 0.35
    percentile: float = 90.0
    max_boxes: int = 3
    min_area: float = 0.01
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


@dataclass(frozen=True, slots=True)
class PseudoBox:
    """A box as shares of the image's width and height, half-open, 0 <= x_min < x_max <= 1.

    Attributes:
        score: mean of the normalised map inside the box, 0 to 1; or what ``box_score`` makes of it.
        component: 0 for the largest connected component of its map, then 1, 2, ...
        touches_edge: whether the box reaches the image's border.
        outside: mean of the normalised map outside the box, 0 to 1; 0 where nothing is outside.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    score: float
    component: int
    touches_edge: bool
    outside: float


@dataclass(frozen=True, slots=True)
class MapBoxes:
    """The boxes of one map, or why there are none."""

    boxes: tuple[PseudoBox, ...]
    reason: NoBoxReason | None = None


_REASONS = {
    NON_FINITE: NoBoxReason.non_finite_map,
    CONSTANT: NoBoxReason.constant_map,
    FOUND: NoBoxReason.too_small,
}


def boxes_from_map(score_map: torch.Tensor, size: tuple[int, int], rule: BoxRule) -> MapBoxes:
    """Turn one score map (h, w) into boxes, see ``boxes_from_maps``.

    Raises:
        ValueError: the map is not (h, w).
    """
    if score_map.ndim != 2:
        raise ValueError(f"expected a map of shape (h, w), got {tuple(score_map.shape)}")
    (found,) = boxes_from_maps(score_map[None], size, rule)
    return found


def boxes_from_maps(
    score_maps: torch.Tensor, size: tuple[int, int], rule: BoxRule
) -> list[MapBoxes]:
    """Turn score maps into boxes.

    Each map is upsampled to ``size``, min-max normalised, and cut at ``tau x percentile``
    (strictly above; paper, section 3.3). The 8-connected components that are left, largest
    first, give one box each. The boxes are those of OpenCV's and numpy's functions one after the
    other; it is one compiled pass here, which other threads need not wait for.

    Args:
        score_maps: (n, h, w), any range, on the CPU.
        size: (height, width) to upsample to; more is finer and slower.
        rule: the threshold and what follows it.

    Returns:
        Of each map its boxes, or the reason why a constant or non-finite map, or one whose
        components are all too small, has none.

    Raises:
        ValueError: the maps are not (n, h, w).
    """
    if score_maps.ndim != 3 or 0 in score_maps.shape[1:]:
        raise ValueError(f"expected maps of shape (n, h, w), got {tuple(score_maps.shape)}")
    height, width = size
    rows = taps(score_maps.shape[1], height, rule.interpolation)
    columns = taps(score_maps.shape[2], width, rule.interpolation)
    outcomes, counts, extents, sums, totals = find_components(
        np.ascontiguousarray(score_maps.float().numpy()),
        rows.cells,
        rows.weights,
        columns.cells,
        columns.weights,
        np.float32(rule.threshold),
        float(rule.percentile),
        rule.min_area * (height * width),
        # No two components share a block of two by two cells.
        min(rule.max_boxes, -(-height // 2) * -(-width // 2)),
    )
    found = []
    for outcome, count, places, inside, total in zip(
        outcomes.tolist(), counts.tolist(), extents, sums, totals.tolist(), strict=True
    ):
        reached = zip(places[:count].tolist(), inside[:count].tolist(), strict=True)
        boxes = tuple(
            _box(component, extent, total_inside, total, size)
            for component, (extent, total_inside) in enumerate(reached)
        )
        found.append(MapBoxes(boxes, None if boxes else _REASONS[outcome]))
    return found


def _box(
    component: int, extent: list[int], inside: float, total: float, size: tuple[int, int]
) -> PseudoBox:
    """A box of half-open (left, top, right, bottom), with the values' sums in it and over all."""
    height, width = size
    left, top, right, bottom = extent
    cells = (right - left) * (bottom - top)
    around = height * width - cells
    return PseudoBox(
        x_min=left / width,
        y_min=top / height,
        x_max=right / width,
        y_max=bottom / height,
        score=inside / cells,
        component=component,
        touches_edge=left == 0 or top == 0 or right == width or bottom == height,
        outside=max(0.0, total - inside) / around if around else 0.0,
    )
