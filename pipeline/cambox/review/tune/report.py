"""What a tuning says, for people and programs."""

from __future__ import annotations

from typing import Any, Literal

from cambox.config import CalibrationSettings
from cambox.review.evaluate.report import Estimate, Figure, Part, Unmeasured

SCHEMA_VERSION: Literal[1] = 1


class PassResult(Part):
    """One pass: how good it is with box settings chosen for it.

    Attributes:
        settings: what it changes; empty for the given settings.
        folder: the URI of its rows and maps.
        figure: on held-out folds, the box settings chosen on the others within this pass.
    """

    settings: dict[str, Any]
    folder: str
    figure: Figure


class Score(Part):
    """ECE, Brier score (both 0 at best) and the area under the ROC curve of one kind of score."""

    error: float
    brier: float
    auc: float


class CalibrationResult(Part):
    """A calibration, judged on boxes of folds that it was not fitted to.

    Attributes:
        boxes, right: how many, and how many of them have IoU 0.5 with a true box of their class.
        fitted: to all boxes, for the recipe.
        calibrated: of the probabilities, on held-out folds.
        by_chance: the ECE that as many boxes would show were every probability exactly right.
        plain: the mean of the map inside the box.
    """

    boxes: int
    right: int
    fitted: CalibrationSettings
    calibrated: Score
    by_chance: float
    plain: Score


class Tuning(Part):
    """The whole result.

    Attributes:
        objective: what is made high.
        given, tuned: the figure on held-out folds, with the given settings and with those chosen
            on the other folds.
        gain: tuned minus given, from the same resamples of the images.
        above_noise: the interval of the gain lies above 0.
        chosen: best over all images; what it changes.
        chosen_in_folds: best over the images outside each fold.
        taken: the recipe has the chosen settings; else it keeps the given ones.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    cambox: str
    objective: str
    truth: str
    images: int
    pairs: int
    folds: int
    seed: int
    box_settings: int
    passes: tuple[PassResult, ...]
    given: Estimate
    tuned: Estimate
    gain: Estimate
    above_noise: bool
    chosen: dict[str, Any]
    chosen_in_folds: tuple[dict[str, Any], ...]
    taken: bool
    calibration: CalibrationResult | Unmeasured
