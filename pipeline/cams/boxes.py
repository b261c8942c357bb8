"""From score maps to pseudo boxes: threshold, connected components, extents."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from pipeline.cams.components import AREA, components
from pipeline.cams.percentile import percentile
from pipeline.cams.upsample import normalise, upsample

# A map that varies less than this share of its largest value holds rounding noise, no object.
CONSTANT_TOLERANCE = 1e-5


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


def boxes_from_map(score_map: torch.Tensor, size: tuple[int, int], rule: BoxRule) -> MapBoxes:
    """Turn one score map into boxes.

    The map is upsampled to ``size``, min-max normalised, and cut at ``tau x percentile``
    (strictly above; paper, section 3.3). The 8-connected components that are left, largest
    first, give one box each.

    Args:
        score_map: (h, w), any range, on the CPU.
        size: (height, width) to upsample to; more is finer and slower.
        rule: the threshold and what follows it.

    Returns:
        The boxes, or the reason why a constant or non-finite map, or one whose components are
        all too small, has none.

    Raises:
        ValueError: the map is not (h, w).
    """
    if score_map.ndim != 2:
        raise ValueError(f"expected a map of shape (h, w), got {tuple(score_map.shape)}")
    scores = score_map.float().numpy()
    if not np.isfinite(scores).all():
        return MapBoxes((), NoBoxReason.non_finite_map)
    if np.ptp(scores) <= CONSTANT_TOLERANCE * np.abs(scores).max():
        return MapBoxes((), NoBoxReason.constant_map)
    values = normalise(upsample(scores, size, rule.interpolation))
    standard = percentile(values, rule.percentile)
    boxes = _component_boxes(values, values > rule.threshold * standard, rule)
    return MapBoxes(boxes, None if boxes else NoBoxReason.too_small)


def _component_boxes(
    values: np.ndarray, foreground: np.ndarray, rule: BoxRule
) -> tuple[PseudoBox, ...]:
    height, width = values.shape
    found = components(foreground, rule.min_area * values.size)[: rule.max_boxes]
    boxes = []
    total = float(values.mean()) * values.size
    for component, (left, top, box_width, box_height) in enumerate(found[:, :AREA].tolist()):
        right, bottom = left + box_width, top + box_height
        cells = box_width * box_height
        inside = float(values[top:bottom, left:right].mean())
        around = values.size - cells
        boxes.append(
            PseudoBox(
                x_min=left / width,
                y_min=top / height,
                x_max=right / width,
                y_max=bottom / height,
                score=inside,
                component=component,
                touches_edge=left == 0 or top == 0 or right == width or bottom == height,
                outside=max(0.0, total - inside * cells) / around if around else 0.0,
            )
        )
    return tuple(boxes)
