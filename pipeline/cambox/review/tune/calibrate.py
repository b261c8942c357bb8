"""From boxes that are right or wrong to the numbers of ``boxes.calibration``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cambox.cams import BoxCalibration, BoxTraits
from cambox.review.evaluate.calibration import calibration_error
from cambox.review.tune.choose import Folds
from cambox.review.tune.found import FoundBox

RIGHT = 0.5
# Of the right and of the wrong boxes, in all: with fewer the numbers follow accidents.
LEAST_OF_A_KIND = 30
# Of the squared weights, for traits of variance one.
INVERSE_STRENGTH = 1.0
DECIMALS = 4
_SIMULATIONS = 500

TRAITS = tuple(field.name for field in fields(BoxTraits))


@dataclass(frozen=True)
class ScoreQuality:
    """How much a score says.

    Attributes:
        error: ECE, ten groups of equal size; 0 is best.
        brier: mean of (score - right) squared; 0 is best.
        auc: how often a right box has a higher score than a wrong one; 0.5 says nothing.
    """

    error: float
    brier: float
    auc: float

    @classmethod
    def of(cls, score: np.ndarray, right: np.ndarray) -> ScoreQuality:
        """Of scores (n,) for boxes that are right (n,) bool or not; both kinds occur."""
        return cls(
            error=calibration_error(score, right),
            brier=float(np.mean((score - right) ** 2)),
            auc=float(roc_auc_score(right, score)),
        )


def traits_of(boxes: Sequence[FoundBox]) -> np.ndarray:
    """(n, traits) of each box."""
    rows = [list(asdict(box.traits).values()) for box in boxes]
    return np.array(rows, dtype=np.float64).reshape(-1, len(TRAITS))


def right_of(boxes: Sequence[FoundBox]) -> np.ndarray:
    """(n,) bool: IoU 0.5 or more with a true box of its class."""
    return np.array([box.overlap >= RIGHT for box in boxes], dtype=bool)


def too_few(right: np.ndarray) -> str | None:
    """Why no calibration can be fitted to boxes of which these are right, if none can."""
    if min(right.sum(), (~right).sum()) >= LEAST_OF_A_KIND:
        return None
    return (
        f"{int(right.sum())} of {len(right)} boxes are right, and a calibration needs "
        f"{LEAST_OF_A_KIND} right and as many wrong ones; give more true boxes"
    )


def fit(traits: np.ndarray, right: np.ndarray) -> BoxCalibration:
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
    return BoxCalibration(round(intercept, DECIMALS), **rounded)


def probabilities(calibration: BoxCalibration, boxes: Sequence[FoundBox]) -> np.ndarray:
    """(n,) the score of each box, as annotating would give it."""
    return np.array([calibration.probability(box.traits) for box in boxes])


def held_out_probabilities(boxes: Sequence[FoundBox], folds: Folds) -> np.ndarray:
    """(n,) the score of each box by a calibration that saw only boxes of other folds."""
    traits, right = traits_of(boxes), right_of(boxes)
    fold = np.array([folds.of_image[box.image] for box in boxes])
    result = np.zeros(len(boxes))
    for number in range(folds.count):
        mine = np.flatnonzero(fold == number).tolist()
        if mine:
            calibration = fit(traits[fold != number], right[fold != number])
            result[mine] = probabilities(calibration, [boxes[index] for index in mine])
    return result


def error_of_perfect_scores(score: np.ndarray, seed: int) -> float:
    """The ECE that so many boxes would show by chance, were every score exactly right."""
    generator = np.random.default_rng(seed)
    draws = [
        calibration_error(score, generator.random(len(score)) < score) for _ in range(_SIMULATIONS)
    ]
    return float(np.mean(draws))
