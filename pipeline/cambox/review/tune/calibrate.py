"""From boxes that are right or wrong to the numbers of ``boxes.calibration``.

Of n boxes: ``traits`` (n, traits), ``right`` (n,) bool, and both kinds occur.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cambox.boxes import Boxes
from cambox.cams.score import TRAITS, probability, traits
from cambox.config_cam import CalibrationSettings
from cambox.review.evaluate.calibration import calibration_error
from cambox.review.evaluate.report import HeldOutCalibration, Unmeasured
from cambox.review.rows_with_truth import MappedImages
from cambox.review.tune.report import Score

RIGHT = 0.5
# Of the right and of the wrong boxes, in all: with fewer the numbers follow accidents.
LEAST_OF_A_KIND = 30
# Of the squared weights, for traits of variance one.
INVERSE_STRENGTH = 1.0
DECIMALS = 4
_SIMULATIONS = 500


def fold_of_images(images: int, folds: int, seed: int) -> np.ndarray:
    """(images,) the fold of each, from 0: groups of nearly one size, drawn at random.

    The same seed gives the same folds.
    """
    fold: np.ndarray = np.random.default_rng(seed).permutation(images) % folds
    return fold


def held_out_calibration(
    images: MappedImages, boxes: Boxes, folds: int, seed: int
) -> HeldOutCalibration | Unmeasured:
    """Fit a calibration to the boxes of all folds but one, and judge it on that one's, in turn.

    Args:
        boxes: of the images, with corners as shares and known class scores.
        folds: from 2.
        seed: of the folds, and of what chance alone would show.
    """
    right = images.overlaps(boxes) >= RIGHT
    if min(right.sum(), (~right).sum()) < LEAST_OF_A_KIND:
        return Unmeasured(
            reason=f"{int(right.sum())} of {len(right)} boxes are right, and a calibration needs "
            f"{LEAST_OF_A_KIND} right and as many wrong ones; give more true boxes"
        )
    if len(images) < folds:
        return Unmeasured(reason=f"{len(images)} images are too few for {folds} folds")
    fold = fold_of_images(len(images), folds, seed)
    scores = held_out_probabilities(traits(boxes), right, fold[boxes.image])
    # The ECE that so many boxes would show by chance, were every score exactly right.
    generator = np.random.default_rng(seed)
    by_chance = [
        calibration_error(scores, generator.random(len(scores)) < scores)
        for _ in range(_SIMULATIONS)
    ]
    return HeldOutCalibration(
        boxes=len(boxes),
        right=int(right.sum()),
        by_chance=float(np.mean(by_chance)),
        **score_quality(scores, right).model_dump(),
    )


def score_quality(score: np.ndarray, right: np.ndarray) -> Score:
    """How much scores (n,) say of boxes that are right or not."""
    return Score(
        error=calibration_error(score, right),
        brier=float(np.mean((score - right) ** 2)),
        auc=float(roc_auc_score(right, score)),
    )


def fit(traits: np.ndarray, right: np.ndarray) -> CalibrationSettings:
    """The logistic regression of right on traits, its weights held small."""
    mean, spread = traits.mean(axis=0), traits.std(axis=0)
    varies = spread > 1e-9
    scale = np.where(varies, spread, 1.0)
    model = LogisticRegression(C=INVERSE_STRENGTH, max_iter=1000)
    model.fit((traits - mean) / scale, right)
    # A trait that is the same for all boxes says nothing, and would only repeat the intercept.
    weights = np.where(varies, model.coef_[0] / scale, 0.0)
    intercept = float(model.intercept_[0] - weights @ mean)
    rounded = [round(weight, DECIMALS) + 0.0 for weight in weights.tolist()]
    of_traits = dict(zip(TRAITS, rounded, strict=True))
    return CalibrationSettings(intercept=round(intercept, DECIMALS), **of_traits)


def held_out_probabilities(traits: np.ndarray, right: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(n,) the score of each box by a calibration that saw only boxes of other folds.

    Args:
        fold: (n,) of the box's image.
    """
    result = np.zeros(len(right))
    for number in np.unique(fold):
        mine = fold == number
        result[mine] = probability(fit(traits[~mine], right[~mine]), traits[mine])
    return result
