"""Whether a box's score says how likely the box is right.

Of n boxes: ``image`` (n,), ``score`` (n,) 0 to 1, ``right`` (n,) bool, matched to a true box of its
own.
"""

from __future__ import annotations

import numpy as np

from cambox.review.evaluate.detection import AT_50, ClassMatches
from cambox.review.evaluate.figures import Bootstrap, estimate, ratio
from cambox.review.evaluate.report import BoxesOf, Calibration, MinScore, ScoreBin, Unmeasured

BINS = 10
MIN_SCORES = np.arange(51) / 50


def calibration(
    boxes_of: BoxesOf, matches: list[ClassMatches], bootstrap: Bootstrap
) -> Calibration | Unmeasured:
    """Whether box_score says how likely a box is right."""
    image = np.concatenate([of_class.image for of_class in matches])
    score = np.concatenate([of_class.score for of_class in matches])
    right = np.concatenate([of_class.right[:, AT_50] for of_class in matches])
    if len(score) == 0:
        return Unmeasured(reason="there is no box; lower boxes.threshold or boxes.min_area")
    return Calibration(
        boxes_of=boxes_of,
        boxes=len(score),
        error=estimate(bootstrap.draw(weighted_calibration_error, image, score, right)[:, 0]),
        bins=equal_mass_bins(score, right),
        curve=score_curve(score, right, sum(len(of_class.true_image) for of_class in matches)),
    )


def equal_mass_bins(score: np.ndarray, right: np.ndarray) -> tuple[ScoreBin, ...]:
    """Ten groups of (nearly) one size, or one for each box where there are fewer; lowest first."""
    order = np.argsort(score, kind="stable")
    return tuple(
        ScoreBin(
            low=score[group].min(),
            high=score[group].max(),
            score=score[group].mean(),
            right=right[group].mean(),
            boxes=len(group),
        )
        for group in np.array_split(order, BINS)
        if len(group)
    )


def calibration_error(score: np.ndarray, right: np.ndarray) -> float:
    """ECE: by how much score and share of right boxes differ in a group, averaged over the boxes.

    Naeini et al., AAAI 2015, with groups of equal mass (Nguyen and O'Connor, EMNLP 2015). NaN
    where there is no box.
    """
    bins = equal_mass_bins(score, right)
    if not bins:
        return float("nan")
    off = [abs(group.score - group.right) for group in bins]
    return float(np.average(off, weights=[group.boxes for group in bins]))


def weighted_calibration_error(
    weights: np.ndarray, image: np.ndarray, score: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """(d,) ECE where images count several times or not at all: weights (d, images) are whole."""
    order = np.argsort(score, kind="stable")
    counts = weights[:, image[order]].astype(np.int64)
    drawn = [np.repeat(order, count) for count in counts]
    return np.array([calibration_error(score[places], right[places]) for places in drawn])


def score_curve(score: np.ndarray, right: np.ndarray, true_boxes: int) -> tuple[MinScore, ...]:
    """Precision and recall against a least score.

    COCO's matching takes the highest scores first, so dropping the lowest changes no match of
    the others, and one matching serves all scores.

    Args:
        true_boxes: in all images, found or not.
    """
    kept = score[None, :] >= MIN_SCORES[:, None]
    boxes = kept.sum(axis=1)
    hits = (kept & right[None, :]).sum(axis=1)
    columns = (MIN_SCORES, boxes, ratio(hits, boxes), ratio(hits, np.array(true_boxes)))
    return tuple(
        MinScore(min_score=least, boxes=left, precision=share, recall=found)
        for least, left, share, found in zip(*(one.tolist() for one in columns), strict=True)
    )
