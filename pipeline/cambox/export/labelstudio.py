"""Label Studio's tasks: ``tasks.json``, and ``labels.xml``, the labelling config that they need.

Each task has one prediction with all of the image's boxes in it, and none has an annotation: what
is guessed arrives as a guess. Places are percent of the image's sides. Every box has its score, and
the prediction that of its least sure box, by which the data manager sorts and filters tasks. The
model version is the beginning of the recipe's digest. ``shard`` and ``key`` come back in the data
of whatever is exported from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from cambox.export.writer import Exported, JsonEntries, Writer, write_new, xml_text
from cambox.training.selection import ClassList

MODEL_VERSION_LENGTH = 16
# The names of the two tags of the labelling config, by which boxes find them.
_BOXES, _IMAGE = "label", "image"


class LabelStudioWriter(Writer):
    """Writes task by task."""

    def __init__(
        self, folder: Path, classes: ClassList, with_images: bool, recipe_digest: str
    ) -> None:
        self.folder = folder
        self.names = [xml_text(name) for name in classes.names]
        self.model_version = recipe_digest[:MODEL_VERSION_LENGTH]
        if with_images:
            (folder / "images").mkdir()
        write_new(folder / "labels.xml", _labelling_config(self.names))
        self.tasks = JsonEntries(folder / "tasks.json", "[", "]")

    def add(self, exported: Exported) -> None:
        """Write one image."""
        if exported.data is not None:
            write_new(self.folder / "images" / exported.file_name, exported.data)
        image, scores = exported.image, exported.rounded_scores
        corners = image.boxes.corners / ([image.width, image.height] * 2) * 100
        places = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        of_each = (places.round(6).tolist(), image.boxes.class_id.tolist(), scores)
        result: list[dict[str, Any]] = [
            {
                "id": f"{image.image_id}-{number}",
                "type": "rectanglelabels",
                "from_name": _BOXES,
                "to_name": _IMAGE,
                "original_width": image.width,
                "original_height": image.height,
                "image_rotation": 0,
                "value": {
                    **dict(zip(("x", "y", "width", "height"), place, strict=True)),
                    "rotation": 0,
                    "rectanglelabels": [self.names[class_id]],
                },
                "score": score,
            }
            for number, (place, class_id, score) in enumerate(zip(*of_each, strict=True))
        ]
        prediction = {
            "model_version": self.model_version,
            "score": min(scores, default=0.0),
            "result": result,
        }
        data = {"image": exported.called, "shard": image.shard, "key": image.key}
        self.tasks.add({"data": data, "predictions": [prediction]})

    def close(self) -> None:
        """All is added."""
        self.tasks.close()

    def notes(self) -> tuple[str, ...]:
        """How it is imported."""
        return ("paste labels.xml into the project's labelling interface, then import tasks.json",)


def _labelling_config(names: list[str]) -> bytes:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=_IMAGE, value="$image")
    boxes = ElementTree.SubElement(view, "RectangleLabels", name=_BOXES, toName=_IMAGE)
    for name in names:
        ElementTree.SubElement(boxes, "Label", value=name)
    ElementTree.indent(view)
    config: bytes = ElementTree.tostring(view, encoding="utf-8")
    return config + b"\n"
