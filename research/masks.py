"""What the masks of ``cambox export --masks`` are worth, on the demo's pictures.

The true shape of an object is what the painter left of it. A mask is compared with it, and so is
the box that it was made with, filled, and the true box, filled: the best that a box can be.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pycocotools.coco import COCO

from cambox.boxes import iou
from cambox.demo.scenes import compose_scene
from cambox.export import Format
from cambox.export.export import export
from cambox.export.request import ExportRequest

FOUND_IOU = 0.5
SHAPES = ("mask", "box, filled", "true box, filled")


def filled(box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) bool, the pixels of a box x_min, y_min, x_max, y_max."""
    left, top, right, bottom = np.rint(box).astype(int).tolist()
    pixels = np.zeros(shape, bool)
    pixels[top:bottom, left:right] = True
    return pixels


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two shapes (h, w) bool."""
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))


def overlaps(coco: COCO, image_id: int) -> tuple[list[tuple[float, ...]], int]:
    """The IoU of each of ``SHAPES`` with each object that was found, and how many objects are."""
    seed = int(coco.imgs[image_id]["key"].rpartition("-")[2])
    _, owners, classes = compose_scene(seed)
    annotations = coco.loadAnns(coco.getAnnIds(image_id))
    found = []
    for owner, class_id in enumerate(classes, 1):
        true = owners == owner
        down, across = np.nonzero(true)
        extent = [across.min(), down.min(), across.max() + 1, down.max() + 1]
        true_box = np.array(extent, np.float64)
        same = [one for one in annotations if one["category_id"] == class_id + 1]
        boxes = np.array([one["bbox"] for one in same], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        fits = iou(boxes, true_box)
        if not len(fits) or fits.max() < FOUND_IOU:
            continue
        best = int(fits.argmax())
        mask = coco.annToMask(same[best]).astype(bool)
        shapes = (mask, filled(boxes[best], true.shape), filled(true_box, true.shape))
        found.append(tuple(overlap(shape, true) for shape in shapes))
    return found, len(classes)


def main(output: Annotated[str, typer.Argument(help="What cambox demo made: demo/boxes")]) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "coco"
        export(ExportRequest(output, Format.coco, to, masks=True))
        coco = COCO(str(to / "annotations.json"))
    parts = [overlaps(coco, image_id) for image_id in coco.getImgIds()]
    found = np.array([one for part, _ in parts for one in part])
    objects = sum(count for _, count in parts)
    print(f"{objects} objects, {len(found)} with a box of IoU {FOUND_IOU} or more")
    for name, values in zip(SHAPES, found.T, strict=True):
        halves, quarters = ((values >= least).mean() for least in (0.5, 0.75))
        print(f"{name}: mean IoU {values.mean():.3f}, 0.5 {halves:.1%}, 0.75 {quarters:.1%}")


if __name__ == "__main__":
    typer.run(main)
