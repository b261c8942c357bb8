"""CVAT's own XML 1.1 (for images): ``annotations.xml``, and ``labels.json`` for its task.

The score is an attribute of each box, the number ``score`` from 0 to 1, by which CVAT filters. It
drops attributes that the task's labels do not have, so the task is made with ``labels.json``, as
its raw labels. Frames are found by their names.
"""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from cambox.export.writer import Exported, Writer, write_new, xml_text
from cambox.training.selection import ClassList

# Lowest, highest, step; written scores are multiples of it.
_VALUES = ("0", "1", "0.000001")


class CvatWriter(Writer):
    """Writes one element an image."""

    def __init__(self, folder: Path, classes: ClassList, with_images: bool) -> None:
        self.folder = folder
        self.names = [xml_text(name) for name in classes.names]
        if with_images:
            (folder / "images").mkdir()
        label = {"type": "rectangle", "attributes": [_SCORE]}
        labels = [{"name": name, **label} for name in self.names]
        write_new(folder / "labels.json", json.dumps(labels, indent=1).encode() + b"\n")
        self.file = (folder / "annotations.xml").open("xb")
        self.file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        self.file.write(b"<version>1.1</version>\n")
        self._write(_meta(self.names))

    def add(self, exported: Exported) -> None:
        """Write one image."""
        image = exported.image
        if exported.data is not None:
            write_new(self.folder / "images" / exported.file_name, exported.data)
        element = ElementTree.Element(
            "image",
            id=str(image.image_id),
            name=xml_text(exported.called),
            width=str(image.width),
            height=str(image.height),
        )
        of_each = (exported.corners(), image.boxes.class_id.tolist(), exported.rounded_scores)
        for corners, number, score in zip(*of_each, strict=True):
            sides = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(str, corners), strict=True))
            label = {"label": self.names[number], "source": "auto", "occluded": "0"}
            box = ElementTree.SubElement(element, "box", {**label, **sides, "z_order": "0"})
            ElementTree.SubElement(box, "attribute", name="score").text = f"{score:.6f}"
        self._write(element)

    def close(self) -> None:
        """All is added."""
        self.file.write(b"</annotations>\n")
        self.file.close()

    def notes(self) -> tuple[str, ...]:
        """How it is imported."""
        return (
            "make the task with labels.json as its raw labels, then upload annotations.xml to it "
            "(CVAT 1.1)",
        )

    def _write(self, element: ElementTree.Element) -> None:
        ElementTree.indent(element)
        self.file.write(ElementTree.tostring(element, encoding="utf-8") + b"\n")


_SCORE = {
    "name": "score",
    "input_type": "number",
    "mutable": False,
    "default_value": "0",
    "values": list(_VALUES),
}


def _meta(names: list[str]) -> ElementTree.Element:
    meta = ElementTree.Element("meta")
    task = ElementTree.SubElement(meta, "task")
    ElementTree.SubElement(task, "mode").text = "annotation"
    labels = ElementTree.SubElement(task, "labels")
    for name in names:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "type").text = "rectangle"
        attributes = ElementTree.SubElement(label, "attributes")
        attribute = ElementTree.SubElement(attributes, "attribute")
        ElementTree.SubElement(attribute, "name").text = "score"
        ElementTree.SubElement(attribute, "mutable").text = "False"
        ElementTree.SubElement(attribute, "input_type").text = "number"
        ElementTree.SubElement(attribute, "default_value").text = "0"
        ElementTree.SubElement(attribute, "values").text = "\n".join(_VALUES)
    return meta
