"""Boxes of stored maps at many thresholds, for the figures that choose the threshold themselves.

The one place of the evaluation that knows how maps become boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cambox.boxing import Boxing
from cambox.cams import BoxRule, boxes_from_map
from cambox.output.rows import StoredMap
from cambox.review.overlap import best_overlaps

THRESHOLDS = np.arange(50) / 50
_NO_LIMIT = 2**31


@dataclass(frozen=True)
class SweepRule:
    """How the maps of a recipe become boxes, but for the threshold.

    Attributes:
        rule: with no smallest component and no limit to their number.
        size: (height, width) that maps are upsampled to.
    """

    rule: BoxRule
    size: tuple[int, int]

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any]) -> SweepRule:
        """From the resolved settings in a footer.

        Raises:
            KeyError, ValueError: they are of another make.
        """
        boxing = Boxing.of_recipe(settings)
        return cls(replace(boxing.rule, min_area=0.0, max_boxes=_NO_LIMIT), boxing.size)


def sweep(
    stored: StoredMap, true_boxes: np.ndarray, image_size: tuple[int, int], sweep_rule: SweepRule
) -> np.ndarray:
    """How well the boxes of a map fit at each threshold.

    Args:
        true_boxes: (n, 4) pixels, of the map's class.
        image_size: (height, width) of the upright image.

    Returns:
        (2, thresholds) the best IoU with a true box, 0 to 1: of the largest component's box, and
        of any component's. 0 where there is no box.
    """
    scores = torch.from_numpy(stored.restore())
    found = [
        boxes_from_map(
            scores, sweep_rule.size, replace(sweep_rule.rule, threshold=float(threshold))
        ).boxes
        for threshold in THRESHOLDS
    ]
    height, width = image_size
    shares = [(box.x_min, box.y_min, box.x_max, box.y_max) for boxes in found for box in boxes]
    corners = np.array(shares, dtype=np.float64).reshape(-1, 4) * [width, height, width, height]
    overlaps = best_overlaps(corners, true_boxes)
    result = np.zeros((2, len(THRESHOLDS)))
    start = 0
    for index, boxes in enumerate(found):
        if boxes:
            result[0, index] = overlaps[start]
            result[1, index] = overlaps[start : start + len(boxes)].max()
        start += len(boxes)
    return result
