"""How far boxes overlap with true ones, and the box that every figure is compared with."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.ops import box_iou

SIDES = ("x_min", "y_min", "x_max", "y_max")
CENTRE_BOX_SIDE = 0.8


def best_overlaps(boxes: np.ndarray, true_boxes: np.ndarray) -> np.ndarray:
    """(n,) the IoU, 0 to 1, of each box with the true box it overlaps most; 0 where there is none.

    Boxes are half-open, so there is no +1 in their sizes (as in COCO, and not as in the code of
    wsolevaluation, which counts each box one pixel longer).

    Args:
        boxes: (n, 4) x_min, y_min, x_max, y_max.
        true_boxes: (m, 4) in the same units.
    """
    if len(boxes) == 0 or len(true_boxes) == 0:
        return np.zeros(len(boxes))
    overlaps = box_iou(_tensor(boxes), _tensor(true_boxes))
    best: np.ndarray = overlaps.amax(dim=1).numpy()
    return best


def centre_box(width: float, height: float) -> np.ndarray:
    """(1, 4) the box in the middle with 0.8 of the image's width and height, in pixels."""
    margin = (1 - CENTRE_BOX_SIDE) / 2
    return np.array(
        [[width * margin, height * margin, width * (1 - margin), height * (1 - margin)]]
    )


def _tensor(boxes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(boxes, dtype=np.float64))
