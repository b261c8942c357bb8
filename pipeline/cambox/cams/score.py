"""Which of the found boxes are kept: how likely each is right, and whose object it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cambox.boxes import Boxes, iou
from cambox.cams.boxes import FoundBoxes, NoBoxReason
from cambox.config_cam import BoxSettings, CalibrationSettings

# Probabilities beyond are the same to the score: their differences are rounding, and a bfloat16
# network's are not a float32 network's.
LEAST_CLASS_SCORE = 0.001
TRAITS = tuple(name for name in CalibrationSettings.model_fields if name != "intercept")
"""What the score of a box is made of; their meaning is with the settings."""


@dataclass(frozen=True)
class MapClasses:
    """Whose maps they are: of each of m maps, ascending by image and within it the best first.

    Attributes:
        image: (m,) the number of the image.
        class_id, rank: (m,) of the class; rank 0 for a given label.
        score: (m,) the class's probability, 0 to 1.
    """

    image: np.ndarray
    class_id: np.ndarray
    rank: np.ndarray
    score: np.ndarray


def choose_boxes(found: FoundBoxes, classes: MapClasses, settings: BoxSettings) -> FoundBoxes:
    """Say whose the boxes are, score them, and drop those that the settings drop.

    Args:
        found: what ``find_boxes`` gave for the maps.
        settings: calibration, min_score and suppress_overlap are read.
    """
    boxes = found.boxes.with_columns(
        image=classes.image[found.of_map],
        class_id=classes.class_id[found.of_map],
        rank=classes.rank[found.of_map],
        class_score=classes.score[found.of_map],
    )
    if settings.calibration is not None:
        boxes = boxes.with_columns(score=probability(settings.calibration, traits(boxes)))
    found = replace(found, boxes=boxes).only(
        boxes.score >= settings.min_score, NoBoxReason.low_score
    )
    if settings.suppress_overlap is not None:
        found = without_overlapping_classes(found, settings.suppress_overlap)
    return found


def traits(boxes: Boxes) -> np.ndarray:
    """(n, traits) float64 of boxes with corners as shares, whose score is the mean of the map.

    In the order of ``TRAITS``. All can be had again from a stored map and its row.
    """
    probability = np.clip(boxes.class_score, LEAST_CLASS_SCORE, 1 - LEAST_CLASS_SCORE)
    logit = np.log(probability / (1 - probability))
    aside = boxes.corners[:, :2] + boxes.corners[:, 2:] - 1
    columns = {
        "class_logit": logit,
        "class_logit_squared": logit * logit,
        "given": boxes.rank == 0,
        "contrast": boxes.score - boxes.outside,
        "area": boxes.area,
        "area_squared": boxes.area * boxes.area,
        "off_centre": np.hypot(aside[:, 0], aside[:, 1]) / np.sqrt(2),
        "later": boxes.component > 0,
    }
    return np.stack([columns[name].astype(np.float64) for name in TRAITS], axis=1)


def probability(calibration: CalibrationSettings, traits: np.ndarray) -> np.ndarray:
    """(n,) 1 / (1 + exp(-(intercept + sum of weight x trait))), 0 to 1, of traits (n, traits)."""
    total = np.full(len(traits), calibration.intercept)
    # One after the other, so that the sum does not depend on how many boxes there are.
    for place, name in enumerate(TRAITS):
        total = total + getattr(calibration, name) * traits[:, place]
    # Of the two forms, the one whose exponential cannot overflow.
    odds = np.exp(-np.abs(total))
    result: np.ndarray = np.where(total >= 0, 1.0, odds) / (1 + odds)
    return result


def without_overlapping_classes(found: FoundBoxes, limit: float) -> FoundBoxes:
    """Drop boxes that overlap a box of a better class of the image: one object, several classes.

    Non-maximum suppression between classes only: boxes of one class are the components of its
    map, and stay. What was dropped drops nothing.

    Args:
        found: of maps ascending by image and within it the best class first.
        limit: an IoU, 0 to 1; boxes that overlap by more are of one object.
    """
    kept = np.ones(len(found.boxes), bool)
    image = found.boxes.image
    starts = np.flatnonzero(np.diff(image, prepend=-1, append=-1))
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        of_map = found.of_map[start:end]
        if of_map[0] == of_map[-1]:
            continue
        corners = found.boxes.corners[start:end].astype(np.float32)
        covers = iou(corners[:, None], corners[None]) > limit
        stays = np.zeros(end - start, bool)
        for number in dict.fromkeys(of_map.tolist()):
            mine = of_map == number
            stays[mine] = ~covers[mine][:, stays].any(axis=1)
        kept[start:end] = stays
    return found.only(kept, NoBoxReason.overlapping_class)
