"""What is made as high as possible, for any weights of the images."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from cambox.boxing import score_rule
from cambox.cams import MapBoxes
from cambox.config import BoxSettings
from cambox.errors import RequestError
from cambox.review.evaluate.detection import AT_50, Boxes, match, weighted_precision
from cambox.review.evaluate.protocol import hits_at, mean_over_classes, share
from cambox.review.tune.found import FoundBox
from cambox.review.tune.images import TuneImage

HALF = 1
"""The place of IoU 0.5 among ``protocol.IOUS``."""

Figure = Callable[[np.ndarray], np.ndarray]
"""From weights (d, images), how often each image counts, to (d, 1), 0 to 1."""


class Objective(enum.StrEnum):
    """The figure that settings are chosen by."""

    gt_known = "gt-known"
    v2 = "v2"
    ap = "ap"


DESCRIPTIONS = {
    Objective.gt_known: "GT-known localisation at IoU 0.5: the first box of each given class",
    Objective.v2: "any box of each given class, mean over IoU 0.3, 0.5 and 0.7, one setting for "
    "all three",
    Objective.ap: "average precision of all boxes at IoU 0.5",
}


def require_objective(name: str | None) -> Objective | None:
    """The objective of that name; None for none.

    Raises:
        RequestError: there is none of that name.
    """
    if name is not None and name not in list(Objective):
        raise RequestError(f"--objective: {name!r} is not one of {', '.join(Objective)}")
    return None if name is None else Objective(name)


class Measure(Protocol):
    """From boxes to the figure over any images."""

    def __call__(self, found: Sequence[FoundBox]) -> Figure:
        """The figure of these boxes."""


def measure_of(objective: Objective, images: Sequence[TuneImage], settings: BoxSettings) -> Measure:
    """How boxes of these images are measured.

    Args:
        settings: how boxes are scored, which average precision ranks them by.
    """
    if objective is Objective.ap:
        true = _true_boxes(images)
        return lambda found: _average_precision(found, true, settings)
    pairs = {
        (place, class_id): index
        for index, (place, class_id) in enumerate(
            (place, class_id)
            for place, image in enumerate(images)
            for class_id in sorted(image.true_boxes)
        )
    }
    if objective is Objective.v2:
        return lambda found: _localisation(found, pairs, any_box=True)
    return lambda found: _localisation(found, pairs, any_box=False)


def _localisation(
    found: Sequence[FoundBox], pairs: dict[tuple[int, int], int], any_box: bool
) -> Figure:
    overlap = np.zeros(len(pairs))
    for box in found:
        index = pairs.get((box.image, box.class_id))
        if index is not None and (any_box or box.box.component == 0):
            overlap[index] = max(overlap[index], box.overlap)
    hits = hits_at(overlap)
    value = hits.mean(axis=1) if any_box else hits[:, HALF].astype(np.float64)
    image = np.array([place for place, _ in pairs], dtype=np.int64)
    return lambda weights: share(weights, image, value[:, None])


def _average_precision(found: Sequence[FoundBox], true: Boxes, settings: BoxSettings) -> Figure:
    rule = replace(score_rule(settings), min_score=0.0)
    scores = [
        rule.apply(MapBoxes((box.box,)), box.class_score, box.rank == 0).boxes[0].score
        for box in found
    ]
    matches = match(
        Boxes(
            image=np.array([box.image for box in found], dtype=np.int64),
            class_id=np.array([box.class_id for box in found], dtype=np.int64),
            corners=np.array([box.corners for box in found]).reshape(-1, 4),
            score=np.array(scores),
        ),
        true,
    )
    classes = [entry for entry in matches if len(entry.true_image)]

    def figure(weights: np.ndarray) -> np.ndarray:
        of_classes = [weighted_precision(entry, weights)[:, [AT_50]] for entry in classes]
        return mean_over_classes(np.stack(of_classes, axis=1))

    return figure


def _true_boxes(images: Sequence[TuneImage]) -> Boxes:
    parts = [
        (place, class_id, boxes)
        for place, image in enumerate(images)
        for class_id, boxes in sorted(image.true_boxes.items())
    ]
    counts = [len(boxes) for *_, boxes in parts]
    return Boxes(
        image=np.repeat(np.array([place for place, *_ in parts], dtype=np.int64), counts),
        class_id=np.repeat(np.array([entry[1] for entry in parts], dtype=np.int64), counts),
        corners=np.concatenate([np.zeros((0, 4)), *(boxes for *_, boxes in parts)]),
        score=np.zeros(sum(counts)),
    )
