"""The names of the formats, apart from what writes them: the command line needs only these."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """The formats, as the command line names them."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    hf = "hf"
