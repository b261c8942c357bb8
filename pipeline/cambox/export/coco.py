"""COCO JSON: ``annotations.json``, and ``images/`` where they are extracted.

``bbox`` is [x, y, width, height] in pixels; category ids count from 1, image ids are row numbers
of the recipe's folder. ``segmentation`` is the box as a polygon, or its mask where masks are asked
for: importers fail where it is missing (CVAT), empty (pycocotools), or of less than three points.
``score`` on annotations, ``shard`` and ``key`` on images are additions that COCO's reader keeps.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cambox.export.writer import Exported, JsonEntries, Writer, write_new
from cambox.training.selection import ClassList


class CocoWriter(Writer):
    """Writes entry by entry: the file is one JSON object, but never in memory."""

    def __init__(self, folder: Path, classes: ClassList, with_images: bool) -> None:
        self.folder = folder
        if with_images:
            (folder / "images").mkdir()
        self.images = JsonEntries(folder / "annotations.json", beginning(classes), "],")
        # The format wants all images before all boxes.
        self.boxes = JsonEntries(folder / ".annotations", '"annotations": [', "]}")

    def add(self, exported: Exported) -> None:
        """Write one image."""
        if exported.data is not None:
            write_new(self.folder / "images" / exported.file_name, exported.data)
        self.images.add(image_entry(exported))
        of_each = zip(boxes_with_scores(exported), _segmentations(exported), strict=True)
        for (number, bbox, score), shape in of_each:
            self.boxes.add(
                {
                    "id": self.boxes.count + 1,
                    "image_id": exported.image.image_id,
                    "category_id": number + 1,
                    "bbox": bbox,
                    **shape,
                    "iscrowd": 0,
                    "score": score,
                }
            )

    def close(self) -> None:
        """Put the boxes behind the images."""
        self.images.close()
        self.boxes.close()
        waiting = self.folder / ".annotations"
        with waiting.open("rb") as boxes, (self.folder / "annotations.json").open("ab") as file:
            shutil.copyfileobj(boxes, file)
        waiting.unlink()


def beginning(classes: ClassList) -> str:
    """The JSON of a dataset, up to its list of images."""
    categories = [
        {"id": number, "name": name, "supercategory": ""}
        for number, name in enumerate(classes.names, 1)
    ]
    return (
        f'{{"info": {{"description": "pseudo boxes of cambox"}}, "licenses": [],\n'
        f'"categories": {json.dumps(categories)},\n"images": ['
    )


def image_entry(exported: Exported) -> dict[str, Any]:
    """An image of a dataset."""
    image = exported.image
    return {
        "id": image.image_id,
        "file_name": exported.called,
        "width": image.width,
        "height": image.height,
        "shard": image.shard,
        "key": image.key,
    }


def boxes_with_scores(exported: Exported) -> Iterator[tuple[int, list[float], float]]:
    """Of each box the place of its class, x, y, width and height in pixels, and its score."""
    classes = exported.image.boxes.class_id.tolist()
    of_each = (exported.corners(), classes, exported.rounded_scores)
    for (x_min, y_min, x_max, y_max), number, score in zip(*of_each, strict=True):
        yield number, [x_min, y_min, round(x_max - x_min, 3), round(y_max - y_min, 3)], score


def _segmentations(exported: Exported) -> Iterator[dict[str, Any]]:
    """Of each box its shape: the mask, or the box's corners clockwise; and its area in pixels."""
    if exported.masks is not None:
        for mask in exported.masks:
            rle = {"size": list(mask.size), "counts": mask.counts}
            yield {"segmentation": rle, "area": mask.area}
        return
    for left, top, right, bottom in exported.corners():
        area = round(round(right - left, 3) * round(bottom - top, 3), 3)
        polygon = [left, top, right, top, right, bottom, left, bottom]
        yield {"segmentation": [polygon], "area": area}
