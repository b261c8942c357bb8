"""One object, several classes: of boxes that overlap, the better class's stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torchvision.ops import box_iou

from pipeline.cams.boxes import MapBoxes, NoBoxReason


def without_overlapping_classes(found: Sequence[MapBoxes], limit: float) -> list[MapBoxes]:
    """Drop boxes that overlap a box of a better class of the image.

    Non-maximum suppression between classes only: boxes of one class are the components of its
    map, and stay. What was dropped drops nothing.

    Args:
        found: the boxes of each class's map, best class first.
        limit: an IoU, 0 to 1; boxes that overlap by more are of one object.

    Returns:
        As ``found``; the boxes that stay are counted from component 0 again.
    """
    kept = torch.zeros(0, 4)
    result = []
    for of_class in found:
        corners = torch.tensor(
            [(box.x_min, box.y_min, box.x_max, box.y_max) for box in of_class.boxes]
        ).reshape(-1, 4)
        covered = (box_iou(corners, kept) > limit).any(dim=1)
        kept = torch.cat([kept, corners[~covered]])
        if not covered.any():
            result.append(of_class)
            continue
        boxes = [
            box for box, drop in zip(of_class.boxes, covered.tolist(), strict=True) if not drop
        ]
        numbered = tuple(replace(box, component=place) for place, box in enumerate(boxes))
        result.append(MapBoxes(numbered, None if numbered else NoBoxReason.overlapping_class))
    return result
