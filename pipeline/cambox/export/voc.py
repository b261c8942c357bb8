"""Pascal VOC: ``VOCdevkit/VOC2012/`` with Annotations, ImageSets/Main/train.txt and JPEGImages.

VOC counts pixels from 1 and names the last pixel inside, so a half-open box x_min..x_max of ours
is xmin = x_min + 1, xmax = x_max there, and back; fractions of pixels are kept, which most readers
take and those that call ``int`` on the text do not. A side shorter than a pixel, which it cannot
say, becomes one pixel. The class of an object is its name. There is no place for scores.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from cambox.export.writer import Exported, Origins, Writer, write_new
from cambox.training.selection import ClassList

_ROOT = Path("VOCdevkit", "VOC2012")
# XML 1.0 has no way to write these.
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class VocWriter(Writer):
    """Writes one XML file an image."""

    def __init__(self, folder: Path, classes: ClassList, with_images: bool) -> None:
        self.names = [_NO_XML.sub("?", name) for name in classes.names]
        self.annotations = folder / _ROOT / "Annotations"
        self.images = folder / _ROOT / "JPEGImages"
        self.annotations.mkdir(parents=True)
        self.images.mkdir()
        lists = folder / _ROOT / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        self.list = (lists / "train.txt").open("x", encoding="utf-8")
        self.origins = Origins(folder)

    def add(self, exported: Exported) -> None:
        """Write one image."""
        self.origins.add(exported)
        self.list.write(f"{exported.name}\n")
        if exported.data is not None:
            write_new(self.images / exported.file_name, exported.data)
        write_new(self.annotations / f"{exported.name}.xml", self._document(exported))

    def close(self) -> None:
        """All is added."""
        self.list.close()
        self.origins.close()

    def _document(self, exported: Exported) -> bytes:
        image = exported.image
        root = ElementTree.Element("annotation")
        _texts(root, folder="VOC2012", filename=exported.file_name)
        source = ElementTree.SubElement(root, "source")
        _texts(source, database="cambox", annotation="pseudo boxes")
        size = ElementTree.SubElement(root, "size")
        _texts(size, width=str(image.width), height=str(image.height), depth="3")
        _texts(root, segmented="0")
        for (x_min, y_min, x_max, y_max), number in zip(
            exported.corners(), image.boxes.class_id.tolist(), strict=True
        ):
            item = ElementTree.SubElement(root, "object")
            _texts(item, name=self.names[number], pose="Unspecified", truncated="0", difficult="0")
            box = ElementTree.SubElement(item, "bndbox")
            left, right = _span(x_min, x_max, image.width)
            top, bottom = _span(y_min, y_max, image.height)
            _texts(box, xmin=left, ymin=top, xmax=right, ymax=bottom)
        ElementTree.indent(root)
        document: bytes = ElementTree.tostring(root, encoding="utf-8")
        return document


def _span(low: float, high: float, size: int) -> tuple[str, str]:
    """From 1, and with the last pixel, of half-open from 0."""
    if high - low < 1:
        low = min(low, size - 1)
        high = low + 1
    return f"{low + 1:.3f}", f"{high:.3f}"


def _texts(parent: ElementTree.Element, **texts: str) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = text
