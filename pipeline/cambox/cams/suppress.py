"""One object, several classes: of boxes that overlap, the better class's stays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torchvision.ops import box_iou

from cambox.cams.boxes import MapBoxes, NoBoxReason


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
    corners = [(box.x_min, box.y_min, box.x_max, box.y_max) for one in found for box in one.boxes]
    if not corners:
        return list(found)
    boxes = torch.tensor(corners)
    covers = (box_iou(boxes, boxes) > limit).tolist()
    numbers = itertools.count()
    kept: list[int] = []
    result = []
    for one in found:
        of_class = [(next(numbers), box) for box in one.boxes]
        left = [
            (number, box)
            for number, box in of_class
            if not any(covers[number][better] for better in kept)
        ]
        kept += [number for number, _ in left]
        if len(left) == len(of_class):
            result.append(one)
            continue
        renumbered = tuple(replace(box, component=place) for place, (_, box) in enumerate(left))
        result.append(MapBoxes(renumbered, None if left else NoBoxReason.overlapping_class))
    return result
