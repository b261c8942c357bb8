"""Pascal VOC: ``VOCdevkit/VOC2012/`` with Annotations, ImageSets/Main/train.txt and JPEGImages.

VOC counts pixels from 1 and names the last pixel inside, so a half-open box x_min..x_max of ours
is xmin = x_min + 1, xmax = x_max there, and back. Corners are whole pixels, because many readers
call ``int`` on the text; fractions are written on request. A side shorter than a pixel, which it
cannot say, becomes one pixel. The class of an object is its name. There is no place for scores.

Readers look for ``JPEGImages/<name>.jpg``: JPEG files end so, whatever they ended in before.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from cambox.console import counted
from cambox.export.writer import Exported, Origins, Writer, write_new, xml_text
from cambox.training.selection import ClassList

_DECIMALS = 3
_ROOT = Path("VOCdevkit", "VOC2012")


class VocWriter(Writer):
    """Writes one XML file an image."""

    def __init__(self, folder: Path, classes: ClassList, fractions: bool = False) -> None:
        self.not_jpeg = 0
        self.decimals = _DECIMALS if fractions else 0
        self.names = [xml_text(name) for name in classes.names]
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
        self.not_jpeg += exported.suffix != "jpg"
        self.list.write(f"{exported.name}\n")
        if exported.data is not None:
            write_new(self.images / exported.file_name, exported.data)
        write_new(self.annotations / f"{exported.name}.xml", self._document(exported))

    def close(self) -> None:
        """All is added."""
        self.list.close()
        self.origins.close()

    def notes(self) -> tuple[str, ...]:
        """Whether there are images that most readers do not look for."""
        if not self.not_jpeg:
            return ()
        count = counted(self.not_jpeg, "image")
        return (f"not named .jpg, because of another format than JPEG: {count}",)

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
            left, right = _span(x_min, x_max, image.width, self.decimals)
            top, bottom = _span(y_min, y_max, image.height, self.decimals)
            _texts(box, xmin=left, ymin=top, xmax=right, ymax=bottom)
        ElementTree.indent(root)
        document: bytes = ElementTree.tostring(root, encoding="utf-8")
        return document


def _span(low: float, high: float, size: int, decimals: int) -> tuple[str, str]:
    """From 1, and with the last pixel, of half-open from 0."""
    low, high = round(low, decimals), round(high, decimals)
    if high - low < 1:
        low = min(low, size - 1)
        high = low + 1
    return f"{low + 1:.{decimals}f}", f"{high:.{decimals}f}"


def _texts(parent: ElementTree.Element, **texts: str) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = text
