"""An output in the formats that detectors are trained from and that people review in."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """The formats, as the command line names them; it needs no more to know what is asked for."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    hf = "hf"
    coco_results = "coco-results"
    labelstudio = "labelstudio"
    cvat = "cvat"
    fiftyone = "fiftyone"
