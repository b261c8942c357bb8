"""COCO JSON: ``annotations.json``, and ``images/`` where they are extracted.

``bbox`` is [x, y, width, height] in pixels; category ids count from 1, image ids are row numbers
of the recipe's folder. ``score`` on annotations, ``shard`` and ``key`` on images are additions
that COCO's own reader keeps.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cambox.export.writer import Exported, Writer, write_new
from cambox.training.selection import ClassList


class CocoWriter(Writer):
    """Writes entry by entry: the file is one JSON object, but never in memory."""

    def __init__(self, folder: Path, classes: ClassList, with_images: bool) -> None:
        self.folder = folder
        self.boxes = 0
        self.images = 0
        if with_images:
            (folder / "images").mkdir()
        self.file = (folder / "annotations.json").open("x", encoding="utf-8")
        # The format wants all images before all boxes.
        self.waiting = (folder / ".annotations").open("x+", encoding="utf-8")
        categories = [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in enumerate(classes.names, 1)
        ]
        self.file.write(
            f'{{"info": {{"description": "pseudo boxes of cambox"}}, "licenses": [],\n'
            f'"categories": {json.dumps(categories)},\n"images": ['
        )

    def add(self, exported: Exported) -> None:
        """Write one image."""
        image = exported.image
        if exported.data is not None:
            write_new(self.folder / "images" / exported.file_name, exported.data)
        entry: dict[str, Any] = {
            "id": image.image_id,
            "file_name": exported.file_name,
            "width": image.width,
            "height": image.height,
            "shard": image.shard,
            "key": image.key,
        }
        self.file.write((",\n" if self.images else "\n") + json.dumps(entry))
        self.images += 1
        of_each = (exported.corners(), image.boxes.class_id.tolist(), image.boxes.score.tolist())
        for (x_min, y_min, x_max, y_max), number, score in zip(*of_each, strict=True):
            width, height = x_max - x_min, y_max - y_min
            self.waiting.write(",\n" if self.boxes else "\n")
            self.boxes += 1
            entry = {
                "id": self.boxes,
                "image_id": image.image_id,
                "category_id": number + 1,
                "bbox": [x_min, y_min, round(width, 3), round(height, 3)],
                "area": round(width * height, 3),
                "iscrowd": 0,
                "score": round(score, 6),
            }
            self.waiting.write(json.dumps(entry))

    def close(self) -> None:
        """Put the boxes behind the images."""
        self.file.write('\n],\n"annotations": [')
        self.waiting.seek(0)
        shutil.copyfileobj(self.waiting, self.file)
        self.file.write("\n]}\n")
        self.file.close()
        self.waiting.close()
        (self.folder / ".annotations").unlink()
