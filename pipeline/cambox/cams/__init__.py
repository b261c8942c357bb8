"""The method: pooling, score maps, top-k classes, boxes. Arrays and tensors; no files, no models.

Bae, Noh, Kim: *Rethinking Class Activation Mapping for Weakly Supervised Object
Localization*, ECCV 2020. The names below are imported when they are first used, because boxes from
stored maps need no torch and the paper's functions no compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cambox.cams.boxes import find_boxes
    from cambox.cams.paper import (
        ThresholdedAvgPool2d,
        batched_index_select,
        cam,
        thresholded_average,
    )
    from cambox.cams.refine import affinity, propagate
    from cambox.cams.score import choose_boxes
    from cambox.cams.score_maps import (
        class_score_maps,
        class_weights,
        image_score_maps,
        wanted_classes,
    )

__all__ = [
    "ThresholdedAvgPool2d",
    "affinity",
    "batched_index_select",
    "cam",
    "choose_boxes",
    "class_score_maps",
    "class_weights",
    "find_boxes",
    "image_score_maps",
    "propagate",
    "thresholded_average",
    "wanted_classes",
]

_MODULES = {
    "boxes": ("find_boxes",),
    "paper": ("ThresholdedAvgPool2d", "batched_index_select", "cam", "thresholded_average"),
    "refine": ("affinity", "propagate"),
    "score": ("choose_boxes",),
    "score_maps": ("class_score_maps", "class_weights", "image_score_maps", "wanted_classes"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"cambox.cams.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
