"""How the score maps of a network lie in its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cambox.config_cam import BoxSettings


@dataclass(frozen=True)
class MapGeometry:
    """How the score maps of a network lie in its images.

    Attributes:
        input_size: of the network, in pixels: (height, width), or the longer side where images
            keep their shape.
        offset: how many cells further right and down than it lies a cell looks.
    """

    input_size: tuple[int, int] | int
    offset: float = 0.0

    def upsampled_size(
        self, settings: BoxSettings, shape: tuple[int, ...] = (1, 1)
    ) -> tuple[int, int]:
        """(height, width) that maps are upsampled to.

        Args:
            settings: resolution is read.
            shape: (h, w) of the map, whose proportions count where images keep their shape.
        """
        longest = settings.resolution or int(np.max(self.input_size))
        height, width = shape if isinstance(self.input_size, int) else self.input_size
        scale = longest / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
