"""``cambox detect``: a detector trained on an output's boxes, and its boxes as another recipe."""

from __future__ import annotations

from enum import StrEnum

ABOUT_FILE = "detector.json"
"""What a folder that holds a detector says of it."""


class DetectorKind(StrEnum):
    """The detectors of torchvision, as the command line names them."""

    fcos = "fcos"
    retinanet = "retinanet"
    fasterrcnn = "fasterrcnn"
    ssdlite = "ssdlite"


class BoxWeights(StrEnum):
    """What says how much each box counts in the loss."""

    score = "score"
    none = "none"
