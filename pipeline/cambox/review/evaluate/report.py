"""What an evaluation says, for people and programs: ``evaluation.json`` is this, as JSON."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _no_nan(value: object) -> object:
    # JSON has no NaN.
    return None if isinstance(value, float) and math.isnan(value) else value


Figure = Annotated[float | None, BeforeValidator(_no_nan)]
"""None where there is nothing to measure."""

_MAIN_IOU = 0.5

BoxesOf = Literal["given labels", "given labels and predicted classes", "predicted classes"]


class Part(BaseModel):
    """A part of the report: immutable, with no room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Part):
    """A figure, and the interval that holds 95 % of its values over resampled images."""

    value: Figure
    low: Figure
    high: Figure

    def points(self, signed: bool = False) -> str:
        """In hundredths, with the interval; ``none`` where there is nothing to measure."""
        if self.value is None:
            return "none"
        sign = "+" if signed else ""
        text = f"{100 * self.value:{sign}.1f}"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"


class Comparison(Part):
    """A figure of the output, the same of the centred box, and by how much it is better.

    The interval of the gain comes from the same resamples, so it is narrower than what the other
    two suggest.
    """

    output: Estimate
    centre_box: Estimate
    gain: Estimate

    def verdict(self, of_what: str) -> str:
        """In a sentence whether the output is better, as far as the images can tell."""
        output, centre = self.output.value, self.centre_box.value
        low, high = self.gain.low, self.gain.high
        if output is None or centre is None or low is None or high is None:
            return f"no verdict, because there is nothing to measure: {of_what}"
        points, than = abs(100 * (output - centre)), f"a box in the middle ({100 * centre:.1f} %)"
        if low > 0:
            result = f"{points:.1f} points above {than}"
        elif high < 0:
            result = f"{points:.1f} points below {than}"
        else:
            result = f"no better than {than}, gain {self.gain.points(signed=True)}"
        return f"{100 * output:.1f} %, {result}: {of_what}"


class Unmeasured(Part):
    """Why a figure is missing, and what to set."""

    reason: str


class AtIou(Part):
    """Shares of hits at one IoU; ``threshold`` is the best one where the figure chooses it."""

    iou: float
    threshold: float | None = None
    share: Comparison


class ThresholdCurve(Part):
    """Shares of hits at one IoU for each threshold: of the largest box, and of any box."""

    iou: float
    thresholds: tuple[float, ...]
    largest: tuple[float, ...]
    any: tuple[float, ...]


class MaxBox(Part):
    """Figures at the threshold that is best for these images (boxes.threshold, same percentile)."""

    max_box_acc: tuple[AtIou, ...]  # the largest box; the name is meant for IoU 0.5
    max_box_acc_v2: tuple[AtIou, ...]  # any box of the class
    max_box_acc_v2_mean: Comparison  # over the IoUs, each with a threshold of its own
    curves: tuple[ThresholdCurve, ...]


class Group(Part):
    """Some of the (image, class) pairs; IoU 0.5, and the threshold that is best for all pairs."""

    name: str
    pairs: int
    gt_known: Comparison | None
    max_box_acc: Comparison | None


class Detection(Part):
    """Several objects an image, matched as COCO does; boxes of a class are ranked by box_score."""

    boxes_of: BoxesOf
    boxes: int
    true_boxes: int
    precision: Comparison  # of all boxes as they are, IoU 0.5
    recall: Comparison  # the same
    ap: Comparison  # mean over IoU 0.5 to 0.95 and over the classes
    ap50: Comparison
    ap75: Comparison


class ScoreBin(Part):
    """Boxes whose scores lie between low and high: mean score, and the share that is right."""

    low: float
    high: float
    score: float
    right: float
    boxes: int


class MinScore(Part):
    """What is left when boxes below a score are dropped (IoU 0.5)."""

    min_score: float
    boxes: int
    precision: Figure
    recall: Figure


class Calibration(Part):
    """Whether box_score says how likely a box is right (IoU 0.5, a true box of its own)."""

    boxes_of: str
    boxes: int
    error: Estimate  # ECE over ten groups of equal mass
    bins: tuple[ScoreBin, ...]
    curve: tuple[MinScore, ...]


class HeldOutCalibration(Part):
    """A calibration fitted to these true boxes, judged on folds of images that it did not see."""

    boxes: int
    right: int  # of them: IoU 0.5 with a true box of their class
    error: float  # ECE over ten groups of equal mass
    by_chance: float  # the ECE of as many boxes, were every probability exactly right
    brier: float  # mean of (probability - right) squared
    auc: float  # how often a right box has a higher probability than a wrong one


class ClassResult(Part):
    """One class: counts, and shares without intervals; None where not measured."""

    class_id: int
    class_name: str
    images: int
    true_boxes: int
    boxes: int
    gt_known: tuple[float, ...] | None  # at IoU 0.3, 0.5, 0.7
    centre_box: tuple[float, ...] | None  # the same
    ap: Figure
    ap50: Figure


class Counts(Part):
    """What was compared."""

    rows: int  # of the output
    images: int  # with a row and a place in the truth
    pairs: int  # of an image and a class it is known to show
    true_boxes: int
    not_ok: dict[str, int]  # images by status; they count as missed
    truth_without_row: int  # images that the output does not have
    rows_without_truth: int  # left out
    # Of a class that is no label of the sample; no localisation, but missed objects.
    pairs_without_label: int


class Evaluation(Part):
    """The whole report."""

    schema_version: Literal[1] = 1
    cambox: str
    output: str
    recipe: str
    recipe_settings: dict[str, Any]
    truth: str
    resamples: int
    seed: int
    counts: Counts
    remarks: tuple[str, ...]
    gt_known: tuple[AtIou, ...] | Unmeasured
    top1: tuple[AtIou, ...] | Unmeasured
    corloc: Comparison | Unmeasured
    max_box: MaxBox | Unmeasured
    groups: tuple[Group, ...]
    detection: tuple[Detection, ...]
    calibration: Calibration | Unmeasured
    held_out_calibration: HeldOutCalibration | Unmeasured
    classes: tuple[ClassResult, ...]

    def verdict(self) -> str:
        """The one figure that says most, beside a box in the middle of each image.

        Boxes of given labels where there are any, else the best predicted class's, else all.
        """
        for name, figure in (
            ("images with the right box of a given label (GT-known, IoU 0.5)", self.gt_known),
            ("images with the right class and box (Top-1, IoU 0.5)", self.top1),
        ):
            if not isinstance(figure, Unmeasured):
                (share,) = (entry.share for entry in figure if entry.iou == _MAIN_IOU)
                return share.verdict(name)
        return self.detection[0].ap50.verdict("all boxes (AP50)")
