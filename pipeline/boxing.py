"""The box rule of a run's or a recipe's settings: the one place where the two meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from pipeline.cams import BoxRule, MapBoxes, boxes_from_map
from pipeline.config import BoxSettings


@dataclass(frozen=True)
class Boxing:
    """How the maps of a recipe become boxes.

    Attributes:
        size: (height, width) that maps are upsampled to.
    """

    rule: BoxRule
    size: tuple[int, int]

    @classmethod
    def of(cls, settings: BoxSettings, input_size: tuple[int, int]) -> Boxing:
        """The settings for a network with an input of (height, width) pixels.

        A setting that has the name of a field of ``BoxRule`` is that field.
        """
        rule = BoxRule(**{field.name: getattr(settings, field.name) for field in fields(BoxRule)})
        height, width = input_size
        scale = (settings.resolution or max(height, width)) / max(height, width)
        return cls(rule, (max(1, round(height * scale)), max(1, round(width * scale))))

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any]) -> Boxing:
        """From the resolved settings in a footer; a setting that it does not know has its default.

        Raises:
            KeyError, ValueError: they are of another make.
        """
        height, width = settings["model"]["input_size"]
        return cls.of(BoxSettings.model_validate(settings["boxes"]), (height, width))

    def boxes(self, score_map: torch.Tensor) -> MapBoxes:
        """The boxes of a map (h, w) on the CPU."""
        return boxes_from_map(score_map, self.size, self.rule)
