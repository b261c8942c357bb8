"""Where in a tensor of features the cells of a map and their channels are."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch

# Class tokens, distillation tokens and registers that may stand before a grid of tokens.
MAX_PREFIX_TOKENS = 16


class Layout(enum.StrEnum):
    """Where features keep their channels."""

    channels_first = "NCHW"
    channels_last = "NHWC"
    tokens = "NLC"


@dataclass(frozen=True)
class FeatureGrid:
    """How to read features as a feature map.

    Attributes:
        layout: where the channels are.
        height, width: of the map, in cells.
        prefix_tokens: tokens before those of the cells (class token, registers).
    """

    layout: Layout
    height: int
    width: int
    prefix_tokens: int = 0

    def feature_map(self, features: torch.Tensor) -> torch.Tensor:
        """Features as (B, C, H, W); other leading dimensions than B are kept."""
        if self.layout is Layout.channels_first:
            return features
        if self.layout is Layout.channels_last:
            return features.movedim(-1, -3)
        cells = features[..., self.prefix_tokens :, :].transpose(-1, -2)
        return cells.reshape(*cells.shape[:-1], self.height, self.width)

    def one_cell(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (B, C) as features of a single cell; prefix tokens are zeros."""
        if self.layout is Layout.channels_first:
            return vectors[:, :, None, None]
        if self.layout is Layout.channels_last:
            return vectors[:, None, None, :]
        prefix = vectors.new_zeros(len(vectors), self.prefix_tokens, vectors.shape[1])
        return torch.cat([prefix, vectors[:, None, :]], dim=1)

    def without_cells(self, features: torch.Tensor) -> torch.Tensor:
        """The same features with zeros in all cells; prefix tokens stay."""
        empty = torch.zeros_like(features)
        if self.layout is Layout.tokens:
            empty[:, : self.prefix_tokens] = features[:, : self.prefix_tokens]
        return empty


def possible_grids(shape: tuple[int, ...], image_size: tuple[int, int]) -> list[FeatureGrid]:
    """The ways to read features of a shape as a grid of more than one cell, the likeliest first.

    Args:
        shape: with the batch first.
        image_size: height and width in pixels; a grid of tokens has the image's aspect ratio.
    """
    if len(shape) == 4:
        grids = [
            FeatureGrid(Layout.channels_first, shape[2], shape[3]),
            FeatureGrid(Layout.channels_last, shape[1], shape[2]),
        ]
    elif len(shape) == 3:
        grids = _token_grids(shape[1], image_size)
    else:
        grids = []
    return [
        grid
        for grid in grids
        if grid.height * grid.width > 1
        and grid.height <= image_size[0]
        and grid.width <= image_size[1]
    ]


def _token_grids(tokens: int, image_size: tuple[int, int]) -> list[FeatureGrid]:
    grids = []
    for prefix in range(min(MAX_PREFIX_TOKENS, tokens - 1) + 1):
        cells = tokens - prefix
        height = round(math.sqrt(cells * image_size[0] / image_size[1]))
        width = cells // max(height, 1)
        # The sides of the cells differ by rounding alone.
        alike = abs(height * image_size[1] - width * image_size[0]) < max(image_size)
        if height * width == cells and alike:
            grids.append(FeatureGrid(Layout.tokens, height, width, prefix))
    return grids
