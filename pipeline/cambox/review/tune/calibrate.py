"""From boxes that are right or wrong to the numbers of ``boxes.calibration``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cambox.boxes import Boxes
from cambox.cams.score import TRAITS, probability, traits
from cambox.config import CalibrationSettings
from cambox.review.evaluate.calibration import calibration_error
from cambox.review.evaluate.report import HeldOutCalibration, Unmeasured
from cambox.review.mapped_images import MappedImages
from cambox.review.tune.report import Score

RIGHT = 0.5
# Of the right and of the wrong boxes, in all: with fewer the numbers follow accidents.
LEAST_OF_A_KIND = 30
# Of the squared weights, for traits of variance one.
INVERSE_STRENGTH = 1.0
DECIMALS = 4
_SIMULATIONS = 500


@dataclass(frozen=True)
class Folds:
    """The images in groups of nearly one size, drawn at random.

    Attributes:
        of_image: (images,) the fold of each, from 0.
        count: of folds, from 2.
    """

    of_image: np.ndarray
    count: int

    @classmethod
    def draw(cls, images: int, count: int, seed: int) -> Folds:
        """The same seed gives the same folds."""
        return cls(np.random.default_rng(seed).permutation(images) % count, count)

    def others(self, fold: int) -> np.ndarray:
        """(1, images) weights: 1 for the images outside a fold, which its settings come from."""
        weights: np.ndarray = (self.of_image != fold).astype(np.float64)[None, :]
        return weights

    def only(self, fold: int) -> np.ndarray:
        """(1, images) weights: 1 for the images of a fold."""
        return 1 - self.others(fold)


def held_out_calibration(
    images: MappedImages, boxes: Boxes, folds: Folds, seed: int
) -> HeldOutCalibration | Unmeasured:
    """Fit a calibration to the boxes of all folds but one, and judge it on that one's, in turn.

    Args:
        boxes: of the images, with corners as shares and known class scores.
        seed: of what chance alone would show.
    """
    right = right_of(images, boxes)
    if min(right.sum(), (~right).sum()) < LEAST_OF_A_KIND:
        return Unmeasured(
            reason=f"{int(right.sum())} of {len(right)} boxes are right, and a calibration needs "
            f"{LEAST_OF_A_KIND} right and as many wrong ones; give more true boxes"
        )
    if len(images) < folds.count:
        return Unmeasured(reason=f"{len(images)} images are too few for {folds.count} folds")
    scores = held_out_probabilities(traits(boxes), right, folds.of_image[boxes.image])
    quality = score_quality(scores, right)
    return HeldOutCalibration(
        boxes=len(boxes),
        right=int(right.sum()),
        error=quality.error,
        by_chance=error_of_perfect_scores(scores, seed),
        brier=quality.brier,
        auc=quality.auc,
    )


def right_of(images: MappedImages, boxes: Boxes) -> np.ndarray:
    """(n,) bool: IoU 0.5 or more with a true box of the same class; corners are shares."""
    right: np.ndarray = images.overlaps(boxes) >= RIGHT
    return right


def score_quality(score: np.ndarray, right: np.ndarray) -> Score:
    """How much scores (n,) say of boxes that are right (n,) bool or not; both kinds occur."""
    return Score(
        error=calibration_error(score, right),
        brier=float(np.mean((score - right) ** 2)),
        auc=float(roc_auc_score(right, score)),
    )


def fit(traits: np.ndarray, right: np.ndarray) -> CalibrationSettings:
    """The logistic regression of right on traits, its weights held small.

    Args:
        traits: (n, traits).
        right: (n,) bool, of both kinds.
    """
    mean, spread = traits.mean(axis=0), traits.std(axis=0)
    varies = spread > 1e-9
    scale = np.where(varies, spread, 1.0)
    model = LogisticRegression(C=INVERSE_STRENGTH, max_iter=1000)
    model.fit((traits - mean) / scale, right)
    # A trait that is the same for all boxes says nothing, and would only repeat the intercept.
    weights = np.where(varies, model.coef_[0] / scale, 0.0)
    intercept = float(model.intercept_[0] - weights @ mean)
    rounded = {
        name: round(float(weight), DECIMALS) + 0.0
        for name, weight in zip(TRAITS, weights, strict=True)
    }
    return CalibrationSettings(intercept=round(intercept, DECIMALS), **rounded)


def held_out_probabilities(traits: np.ndarray, right: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(n,) the score of each box by a calibration that saw only boxes of other folds.

    Args:
        traits: (n, traits).
        right: (n,) bool.
        fold: (n,) of the box's image.
    """
    result = np.zeros(len(right))
    for number in np.unique(fold):
        mine = fold == number
        result[mine] = probability(fit(traits[~mine], right[~mine]), traits[mine])
    return result


def error_of_perfect_scores(score: np.ndarray, seed: int) -> float:
    """The ECE that so many boxes would show by chance, were every score exactly right."""
    generator = np.random.default_rng(seed)
    draws = [
        calibration_error(score, generator.random(len(score)) < score) for _ in range(_SIMULATIONS)
    ]
    return float(np.mean(draws))
