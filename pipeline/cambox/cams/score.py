"""How likely a box is right, from what is known of the box, its map and its class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cambox.cams.boxes import MapBoxes, NoBoxReason, PseudoBox

# Probabilities beyond are the same to the score: their differences are rounding, and a bfloat16
# network's are not a float32 network's.
LEAST_CLASS_SCORE = 0.001


@dataclass(frozen=True, slots=True)
class BoxTraits:
    """What the score of a box is made of. All can be had again from a stored map and its row.

    Attributes:
        class_logit: log(p / (1 - p)) of the class's probability p, held within 0.001 to 0.999;
            -6.9 to 6.9.
        class_logit_squared: networks are sure of themselves in other measure than they are right.
        given: 1 where the class came with the sample, 0 where it was predicted.
        contrast: mean of the normalised map inside the box minus that outside, -1 to 1.
        area: of the box, as a share of the image, 0 to 1.
        area_squared: so that boxes of middling size may be the best.
        off_centre: distance of the box's centre from the image's, 1 in the corner.
        later: 1 for all boxes of a map but the first.
    """

    class_logit: float
    class_logit_squared: float
    given: float
    contrast: float
    area: float
    area_squared: float
    off_centre: float
    later: float

    @classmethod
    def of(cls, box: PseudoBox, class_score: float, given: bool) -> BoxTraits:
        """The traits of a box whose class has the probability ``class_score``, 0 to 1."""
        probability = min(max(class_score, LEAST_CLASS_SCORE), 1 - LEAST_CLASS_SCORE)
        area = (box.x_max - box.x_min) * (box.y_max - box.y_min)
        logit = math.log(probability / (1 - probability))
        aside = (box.x_min + box.x_max) - 1, (box.y_min + box.y_max) - 1
        return cls(
            class_logit=logit,
            class_logit_squared=logit * logit,
            given=float(given),
            contrast=box.score - box.outside,
            area=area,
            area_squared=area * area,
            off_centre=math.hypot(*aside) / math.sqrt(2),
            later=float(box.component > 0),
        )


@dataclass(frozen=True, slots=True)
class BoxCalibration:
    """A logistic regression over the traits: an intercept, and a weight for each of them."""

    intercept: float
    class_logit: float = 0.0
    class_logit_squared: float = 0.0
    given: float = 0.0
    contrast: float = 0.0
    area: float = 0.0
    area_squared: float = 0.0
    off_centre: float = 0.0
    later: float = 0.0

    def probability(self, traits: BoxTraits) -> float:
        """1 / (1 + exp(-(intercept + sum of weight x trait))), within 0 to 1."""
        total = (
            self.intercept
            + self.class_logit * traits.class_logit
            + self.class_logit_squared * traits.class_logit_squared
            + self.given * traits.given
            + self.contrast * traits.contrast
            + self.area * traits.area
            + self.area_squared * traits.area_squared
            + self.off_centre * traits.off_centre
            + self.later * traits.later
        )
        # Of the two forms, the one whose exponential cannot overflow.
        odds = math.exp(-abs(total))
        return (1.0 if total >= 0 else odds) / (1 + odds)


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """How boxes are scored, and which are kept.

    Attributes:
        calibration: None leaves the mean of the map inside the box.
        min_score: boxes below it are dropped, 0 to 1.
    """

    calibration: BoxCalibration | None = None
    min_score: float = 0.0

    def apply(self, found: MapBoxes, class_score: float, given: bool) -> MapBoxes:
        """Score the boxes of one map and drop the doubtful ones; the rest are counted from 0 again.

        Args:
            class_score: the probability of the map's class, 0 to 1.
            given: whether that class came with the sample.
        """
        boxes = found.boxes
        if self.calibration is not None:
            boxes = tuple(
                replace(
                    box,
                    score=self.calibration.probability(BoxTraits.of(box, class_score, given)),
                )
                for box in boxes
            )
        kept = [box for box in boxes if box.score >= self.min_score]
        if len(kept) == len(found.boxes):
            return MapBoxes(boxes, found.reason)
        numbered = tuple(replace(box, component=place) for place, box in enumerate(kept))
        return MapBoxes(numbered, None if numbered else NoBoxReason.low_score)
