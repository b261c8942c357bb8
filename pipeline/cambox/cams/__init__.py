"""The method, in tensors: pooling, score maps, top-k classes, boxes. No files, no models.

Bae, Noh, Kim: *Rethinking Class Activation Mapping for Weakly Supervised Object
Localization*, ECCV 2020.
"""

from cambox.cams.boxes import (
    BoxRule,
    MapBoxes,
    NoBoxReason,
    PseudoBox,
    boxes_from_map,
    boxes_from_maps,
)
from cambox.cams.paper import batched_index_select, cam
from cambox.cams.pooling import ThresholdedAvgPool2d, thresholded_average
from cambox.cams.score import BoxCalibration, BoxTraits, ScoreRule
from cambox.cams.score_maps import class_score_maps, image_score_maps
from cambox.cams.suppress import without_overlapping_classes
from cambox.cams.topk import WantedClass, wanted_classes
from cambox.cams.upsample import normalise, upsample
from cambox.cams.weights import class_weights

__all__ = [
    "BoxCalibration",
    "BoxRule",
    "BoxTraits",
    "MapBoxes",
    "NoBoxReason",
    "PseudoBox",
    "ScoreRule",
    "ThresholdedAvgPool2d",
    "WantedClass",
    "batched_index_select",
    "boxes_from_map",
    "boxes_from_maps",
    "cam",
    "class_score_maps",
    "class_weights",
    "image_score_maps",
    "normalise",
    "thresholded_average",
    "upsample",
    "wanted_classes",
    "without_overlapping_classes",
]
