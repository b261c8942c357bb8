"""The boxes of a run's or a recipe's settings: the one place where the two meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from cambox.cams import (
    BoxCalibration,
    BoxRule,
    MapBoxes,
    ScoreRule,
    WantedClass,
    boxes_from_maps,
    without_overlapping_classes,
)
from cambox.config import BoxSettings


@dataclass(frozen=True)
class Boxing:
    """How the maps of a recipe become boxes.

    Attributes:
        size: (height, width) that maps are upsampled to.
        score_rule: how boxes are scored, and which are too doubtful.
        suppress_overlap: an IoU; see ``without_overlapping_classes``. None: all classes' boxes.
    """

    rule: BoxRule
    size: tuple[int, int]
    score_rule: ScoreRule
    suppress_overlap: float | None

    @classmethod
    def of(cls, settings: BoxSettings, input_size: tuple[int, int]) -> Boxing:
        """The settings for a network with an input of (height, width) pixels.

        A setting that has the name of a field of ``BoxRule`` is that field.
        """
        rule = BoxRule(**{field.name: getattr(settings, field.name) for field in fields(BoxRule)})
        height, width = input_size
        scale = (settings.resolution or max(height, width)) / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        return cls(rule, size, score_rule(settings), settings.suppress_overlap)

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any]) -> Boxing:
        """From the resolved settings in a footer; a setting that it does not know has its default.

        Raises:
            KeyError, ValueError: they are of another make.
        """
        height, width = settings["model"]["input_size"]
        return cls.of(BoxSettings.model_validate(settings["boxes"]), (height, width))

    def boxes(self, score_maps: torch.Tensor) -> list[MapBoxes]:
        """The boxes of each of the maps (n, h, w) on the CPU, not scored yet."""
        return boxes_from_maps(score_maps, self.size, self.rule)

    def of_image(
        self,
        wanted: Sequence[WantedClass],
        class_scores: Sequence[float],
        found: Sequence[MapBoxes],
    ) -> list[MapBoxes]:
        """The boxes of all maps of one image, scored, without those that the settings drop.

        Args:
            wanted: the maps' classes, best first.
            class_scores: their probabilities, 0 to 1.
            found: what ``boxes`` gave for them.
        """
        scored = [
            self.score_rule.apply(boxes, class_score, choice.rank == 0)
            for choice, class_score, boxes in zip(wanted, class_scores, found, strict=True)
        ]
        if self.suppress_overlap is None:
            return scored
        return without_overlapping_classes(scored, self.suppress_overlap)


def score_rule(settings: BoxSettings) -> ScoreRule:
    """How boxes are scored and which are kept; the settings' names are those of the traits."""
    wanted = settings.calibration
    calibration = None if wanted is None else BoxCalibration(**wanted.model_dump())
    return ScoreRule(calibration, settings.min_score)
