"""What scores would be worth, were they calibrated on the true boxes at hand (``cambox tune``)."""

from __future__ import annotations

from cambox.config import BoxSettings
from cambox.review.evaluate.report import HeldOutCalibration, Unmeasured
from cambox.review.tune.calibrate import (
    ScoreQuality,
    error_of_perfect_scores,
    held_out_probabilities,
    right_of,
    too_few,
)
from cambox.review.tune.choose import Folds
from cambox.review.tune.found import find_boxes
from cambox.review.tune.images import read_pass

FOLDS = 5


def held_out_calibration(
    output: str, truth_uri: str, settings: BoxSettings, seed: int
) -> HeldOutCalibration | Unmeasured:
    """Fit a calibration to the boxes of four fifths of the images, and judge it on the others'.

    Args:
        output: with maps, which tell of a box what its row does not.
        settings: of the output's boxes; a calibration and a least score among them do not count.

    Raises:
        RequestError: as ``read_pass``.
    """
    images = read_pass(output, truth_uri)
    plain = settings.model_copy(update={"calibration": None, "min_score": 0.0})
    (boxes,) = find_boxes(images, lambda rank: rank >= 0, [plain])
    right = right_of(boxes)
    reason = too_few(right)
    if reason is not None:
        return Unmeasured(reason=reason)
    if len(images.images) < FOLDS:
        return Unmeasured(reason=f"{len(images.images)} images are too few for {FOLDS} folds")
    scores = held_out_probabilities(boxes, Folds.draw(len(images.images), FOLDS, seed))
    quality = ScoreQuality.of(scores, right)
    return HeldOutCalibration(
        boxes=len(boxes),
        right=int(right.sum()),
        error=quality.error,
        by_chance=error_of_perfect_scores(scores, seed),
        brier=quality.brier,
        auc=quality.auc,
    )
