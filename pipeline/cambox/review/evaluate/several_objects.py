"""All boxes of an output: detection figures, calibration of the score, results by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cambox.review.evaluate.bootstrap import Bootstrap
from cambox.review.evaluate.calibration import (
    equal_mass_bins,
    score_curve,
    weighted_calibration_error,
)
from cambox.review.evaluate.detection import AT_50, Boxes, ClassMatches, figures
from cambox.review.evaluate.localisation import comparison, estimate
from cambox.review.evaluate.measurable import BoxesOf
from cambox.review.evaluate.report import (
    Calibration,
    Detection,
    MinScore,
    ScoreBin,
    Unmeasured,
)
from cambox.review.overlap import centre_box
from cambox.review.rows_with_truth import OK, UNKNOWN_CLASS, JudgedImage


def true_boxes_of(images: Sequence[JudgedImage]) -> Boxes:
    """All true boxes; their score is 0."""
    parts = [
        (place, class_id, boxes)
        for place, image in enumerate(images)
        for class_id, boxes in sorted(image.true_boxes.items())
    ]
    return _boxes(
        [(place, class_id, boxes, np.zeros(len(boxes))) for place, class_id, boxes in parts]
    )


def found_boxes_of(
    images: Sequence[JudgedImage], ranks: Callable[[np.ndarray], np.ndarray]
) -> Boxes:
    """The pseudo boxes whose rank is wanted, with their box_score."""
    parts = []
    for place, image in enumerate(images):
        wanted = ranks(image.found.rank)
        for class_id in np.unique(image.found.class_id[wanted]):
            mine = wanted & (image.found.class_id == class_id)
            parts.append((place, int(class_id), image.found.corners[mine], image.found.score[mine]))
    return _boxes(parts)


def centre_boxes_of(images: Sequence[JudgedImage], found: Boxes, labels: bool) -> Boxes:
    """A centred box, score 1, for each class asked for: each label, or each class with a box.

    Args:
        labels: whether given labels were asked for.
    """
    asked: list[set[int]] = [set(image.labels) if labels else set() for image in images]
    for place, class_id in zip(found.image.tolist(), found.class_id.tolist(), strict=True):
        asked[place].add(class_id)
    parts = []
    for place, (image, classes) in enumerate(zip(images, asked, strict=True)):
        if image.size is not None and image.status == OK:
            height, width = image.size
            box = centre_box(width, height)
            parts += [(place, class_id, box, np.ones(1)) for class_id in sorted(classes)]
    return _boxes(parts)


def _boxes(parts: Sequence[tuple[int, int, np.ndarray, np.ndarray]]) -> Boxes:
    counts = [len(boxes) for _, _, boxes, _ in parts]
    return Boxes(
        image=np.repeat(np.array([place for place, *_ in parts], dtype=np.int64), counts),
        class_id=np.repeat(np.array([class_id for _, class_id, *_ in parts], np.int64), counts),
        corners=np.concatenate([np.zeros((0, 4)), *(boxes for _, _, boxes, _ in parts)]),
        score=np.concatenate([np.zeros(0), *(scores for *_, scores in parts)]),
    )


def detection(
    boxes_of: BoxesOf,
    matches: list[ClassMatches],
    centre: list[ClassMatches],
    bootstrap: Bootstrap,
) -> Detection:
    """Detection figures beside those of centred boxes."""
    mine = bootstrap.draw(lambda weights: figures(matches, weights, UNKNOWN_CLASS))
    base = bootstrap.draw(lambda weights: figures(centre, weights, UNKNOWN_CLASS))
    precision, recall, ap, ap50, ap75 = map(comparison, mine, base)
    return Detection(
        boxes_of=boxes_of,
        boxes=sum(len(of_class.image) for of_class in matches),
        true_boxes=sum(len(of_class.true_image) for of_class in matches),
        precision=precision,
        recall=recall,
        ap=ap,
        ap50=ap50,
        ap75=ap75,
    )


def calibration(
    boxes_of: BoxesOf, matches: list[ClassMatches], bootstrap: Bootstrap
) -> Calibration | Unmeasured:
    """Whether box_score says how likely a box is right."""
    image = np.concatenate([of_class.image for of_class in matches])
    score = np.concatenate([of_class.score for of_class in matches])
    right = np.concatenate([of_class.right[:, AT_50] for of_class in matches])
    if len(score) == 0:
        return Unmeasured(reason="there is no box; lower boxes.threshold or boxes.min_area")
    bins = equal_mass_bins(score, right)
    curve = score_curve(score, right, sum(len(of_class.true_image) for of_class in matches))
    (error,) = bootstrap.draw(
        lambda weights: weighted_calibration_error(weights, image, score, right)
    )
    return Calibration(
        boxes_of=boxes_of,
        boxes=len(score),
        error=estimate(error),
        bins=tuple(
            ScoreBin(low=low, high=high, score=mean, right=share, boxes=count)
            for low, high, mean, share, count in zip(
                *(column.tolist() for column in vars(bins).values()), strict=True
            )
        ),
        curve=tuple(
            MinScore(min_score=least, boxes=count, precision=precision, recall=recall)
            for least, count, precision, recall in zip(
                *(column.tolist() for column in vars(curve).values()), strict=True
            )
        ),
    )
