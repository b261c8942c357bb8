"""CVAT's XML 1.1 for images, element by element."""

from __future__ import annotations

from collections import Counter
from typing import Any
from xml.parsers import expat

from cambox.errors import RequestError
from cambox.review.corrections.images import (
    CorrectedBox,
    CorrectedImage,
    ReviewFile,
    require_upright,
)

CVAT_NAME = "CVAT's XML (CVAT for images 1.1)"
_SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")


class _Reading:
    """What was met of the file so far."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.depth = 0
        self.images: list[CorrectedImage] = []
        self.boxes: list[CorrectedBox] = []
        self.image: dict[str, str] | None = None
        self.left_out: Counter[str] = Counter()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth == 1 and name != "annotations":
            raise RequestError(f"{self.uri} is no {CVAT_NAME}: it begins with <{name}>")
        if name == "track":
            raise RequestError(f"{self.uri} has tracks of a video; export it as {CVAT_NAME}")
        if self.depth == 2 and name == "image":
            self.image, self.boxes = attributes, []
        elif self.image is not None and name == "box":
            self._box(self.image, attributes)
        elif self.image is not None and name in _SHAPES:
            self.left_out[f"shapes that are no box ({name})"] += 1

    def _box(self, image: dict[str, str], box: dict[str, str]) -> None:
        where = f"{self.uri}: image {image.get('name')!r}"
        try:
            x_min, y_min, x_max, y_max = (float(box[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
            rotation, label = float(box.get("rotation", 0)), box["label"]
        except (KeyError, ValueError) as error:
            raise RequestError(f"{where}: a box has no proper {error}") from error
        require_upright(where, rotation, "CVAT")
        self.boxes.append(CorrectedBox((x_min, y_min, x_max, y_max), label))

    def end(self, name: str) -> None:
        if self.depth == 2 and name == "image" and self.image is not None:
            given = self.image
            try:
                size = (float(given["width"]), float(given["height"]))
                called = given["name"]
            except (KeyError, ValueError) as error:
                raise RequestError(f"{self.uri}: an image has no proper {error}") from error
            where = f"image {given.get('id', called)}"
            boxes = tuple(self.boxes)
            self.images.append(CorrectedImage(called, where, None, None, size, boxes))
            self.image = None
        self.depth -= 1

    def refuse(self, *_: Any) -> None:
        # Entities are declared there: a file of some kB may stand for all memory, or for a file.
        raise RequestError(f"{self.uri} has a document type, which CVAT's files do not have")


def from_cvat(uri: str, data: bytes) -> ReviewFile:
    """All images of the file count as reviewed, also those without a box.

    Raises:
        RequestError: it is not CVAT's, or has rotated boxes or tracks.
    """
    reading = _Reading(uri)
    parser = expat.ParserCreate()
    parser.StartElementHandler = reading.start
    parser.EndElementHandler = reading.end
    parser.StartDoctypeDeclHandler = reading.refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise RequestError(f"{uri} is no XML: {error}; export it again") from error
    return ReviewFile("CVAT", tuple(reading.images), left_out=reading.left_out)
