"""One object, several classes: of boxes that overlap, the better class's stays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.ops import box_iou


def kept_between_classes(
    corners: torch.Tensor, class_ids: Sequence[int], limit: float
) -> list[bool]:
    """Which boxes stay when those that overlap a better class's box are dropped.

    Non-maximum suppression between classes only: boxes of one class are the components of its
    map, and stay.

    Args:
        corners: (n, 4) x_min, y_min, x_max, y_max, best class first.
        class_ids: (n,) of each box.
        limit: an IoU, 0 to 1; boxes that overlap by more are of one object.

    Returns:
        (n,) True for what stays; the first box always does.

    Raises:
        ValueError: boxes and classes are not as many.
    """
    if corners.ndim != 2 or corners.shape[1] != 4 or len(corners) != len(class_ids):
        raise ValueError(
            f"expected corners of shape ({len(class_ids)}, 4) for {len(class_ids)} classes, got "
            f"{tuple(corners.shape)}"
        )
    overlap = box_iou(corners, corners).tolist()
    kept: list[bool] = []
    for place, class_id in enumerate(class_ids):
        kept.append(
            not any(
                kept[better] and class_ids[better] != class_id and overlap[better][place] > limit
                for better in range(place)
            )
        )
    return kept
