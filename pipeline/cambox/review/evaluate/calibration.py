"""Whether a box's score says how likely the box is right: arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cambox.review.evaluate.protocol import ratio

BINS = 10
MIN_SCORES = np.arange(51) / 50


@dataclass(frozen=True)
class Bins:
    """Boxes in groups of (nearly) one size, by score.

    Attributes:
        low, high: (b,) lowest and highest score in the group.
        score: (b,) mean.
        right: (b,) share of right boxes, 0 to 1.
        boxes: (b,) their number.
    """

    low: np.ndarray
    high: np.ndarray
    score: np.ndarray
    right: np.ndarray
    boxes: np.ndarray


def equal_mass_bins(score: np.ndarray, right: np.ndarray) -> Bins:
    """Ten groups, or one for each box where there are fewer; the lowest scores first.

    Args:
        score: (n,) n from 1.
        right: (n,) bool.
    """
    order = np.argsort(score, kind="stable")
    groups = [group for group in np.array_split(order, BINS) if len(group)]
    return Bins(
        low=np.array([score[group].min() for group in groups]),
        high=np.array([score[group].max() for group in groups]),
        score=np.array([score[group].mean() for group in groups]),
        right=np.array([right[group].mean() for group in groups]),
        boxes=np.array([len(group) for group in groups]),
    )


def calibration_error(score: np.ndarray, right: np.ndarray) -> float:
    """ECE: by how much score and share of right boxes differ in a group, averaged over the boxes.

    Naeini et al., AAAI 2015, with groups of equal mass (Nguyen and O'Connor, EMNLP 2015). NaN
    where there is no box.
    """
    if len(score) == 0:
        return float("nan")
    bins = equal_mass_bins(score, right)
    return float(np.average(np.abs(bins.score - bins.right), weights=bins.boxes))


def weighted_calibration_error(
    weights: np.ndarray, image: np.ndarray, score: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """(d,) ECE where images count several times or not at all.

    Args:
        weights: (d, images), whole numbers.
        image, score, right: (n,) of each box.
    """
    order = np.argsort(score, kind="stable")
    score, right = score[order], right[order].astype(np.float64)
    counts = weights[:, image[order]].astype(np.int64)
    return np.array(
        [calibration_error(np.repeat(score, count), np.repeat(right, count)) for count in counts]
    )


@dataclass(frozen=True)
class ScoreCurve:
    """What is left, and how good it is, when boxes below a score are dropped.

    Attributes:
        min_score: (s,) 0 to 1.
        boxes: (s,) with at least that score.
        precision, recall: (s,) 0 to 1 at IoU 0.5; precision is NaN where no box is left.
    """

    min_score: np.ndarray
    boxes: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def score_curve(score: np.ndarray, right: np.ndarray, true_boxes: int) -> ScoreCurve:
    """Precision and recall against a least score.

    COCO's matching takes the highest scores first, so dropping the lowest changes no match of
    the others, and one matching serves all scores.

    Args:
        score: (n,)
        right: (n,) bool, matched to a true box of its own.
        true_boxes: in all images, found or not.
    """
    kept = score[None, :] >= MIN_SCORES[:, None]
    boxes = kept.sum(axis=1)
    hits = (kept & right[None, :]).sum(axis=1)
    return ScoreCurve(MIN_SCORES, boxes, ratio(hits, boxes), ratio(hits, np.array(true_boxes)))
