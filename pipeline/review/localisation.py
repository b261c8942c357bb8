"""How often the boxes hit the true ones, beside a box in the middle of the image."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import box_iou

SIDES = ("x_min", "y_min", "x_max", "y_max")
CENTRE_BOX_SIDE = 0.8

ClassesOfImage = tuple[str, int]
TrueBoxes = Mapping[ClassesOfImage, list[list[float]]]


@dataclass(frozen=True)
class Localisation:
    """Shares of hits, 0 to 1.

    Attributes:
        pairs: of an image and a class that it is known to show.
        objects: true boxes.
        hit: pairs whose component-0 box has the IoU with a true box of the class.
        centre_hit: the same for a centred box of 0.8 x side.
        found: true boxes that any box of their class has the IoU with.
    """

    pairs: int
    objects: int
    hit: float
    centre_hit: float
    found: float


def read_true_boxes(path: Path) -> TrueBoxes:
    """True boxes by image (without its extension) and class, in pixels, half-open.

    Args:
        path: a CSV with the columns image, class_index, x_min, y_min, x_max, y_max.
    """
    boxes: dict[ClassesOfImage, list[list[float]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            key = str(Path(line["image"]).with_suffix("")), int(line["class_index"])
            boxes[key].append([float(line[side]) for side in SIDES])
    return boxes


def measure(rows: Sequence[Mapping[str, Any]], truth: TrueBoxes, iou: float) -> Localisation:
    """Compare annotated rows with true boxes, class by class.

    Args:
        rows: of a table read back, with given labels annotated (rank 0).
        truth: for every class of every row.
        iou: the least overlap of a hit, 0 to 1.

    Raises:
        ValueError: no row has a true box.
    """
    by_key = {row["key"]: row for row in rows}
    pairs = [pair for pair in truth if pair[0] in by_key]
    if not pairs:
        raise ValueError(f"none of {len(rows)} rows has a true box among {len(truth)}")
    hits = centre_hits = found = objects = 0
    for key, class_id in pairs:
        row = by_key[key]
        true_boxes = torch.tensor(truth[key, class_id])
        mine = [box for box in row["objects"] if box["class_id"] == class_id]
        overlaps = box_iou(_corners(mine), true_boxes)
        first = [index for index, box in enumerate(mine) if box["component"] == 0]
        hits += bool((overlaps[first] >= iou).any())
        found += int((overlaps >= iou).any(dim=0).sum())
        objects += len(true_boxes)
        centre = centre_box(row["width"], row["height"])
        centre_hits += bool((box_iou(centre, true_boxes) >= iou).any())
    return Localisation(
        pairs=len(pairs),
        objects=objects,
        hit=hits / len(pairs),
        centre_hit=centre_hits / len(pairs),
        found=found / objects,
    )


def centre_box(width: float, height: float) -> torch.Tensor:
    """(1, 4) the box in the middle with 0.8 of the image's width and height, in pixels."""
    margin = (1 - CENTRE_BOX_SIDE) / 2
    return torch.tensor(
        [[width * margin, height * margin, width * (1 - margin), height * (1 - margin)]]
    )


def _corners(boxes: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    corners = [[float(box[side]) for side in SIDES] for box in boxes]
    return torch.tensor(corners).reshape(-1, 4)
