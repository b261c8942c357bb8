"""What a classifier's head computes of its features, and how features are read as cells.

All kinds of heads give maps of one meaning: ``mean over cells of map[k] + constant[k] =
logit[k]``; ``sum_error`` measures it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cambox.models.freeze import Frozen

Head = Callable[[torch.Tensor], torch.Tensor]

# Rounding of float32 networks stays below 1e-5 of the logits' spread; a wrong guess is far above.
TOLERANCE = 1e-3
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
    grids: list[FeatureGrid] = []
    if len(shape) == 4:
        grids = [
            FeatureGrid(Layout.channels_first, shape[2], shape[3]),
            FeatureGrid(Layout.channels_last, shape[1], shape[2]),
        ]
    elif len(shape) == 3:
        grids = _token_grids(shape[1], image_size)
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


class HeadKind(enum.StrEnum):
    """How the class weights of a map come about."""

    affine = "affine"  # fixed weights
    frozen = "frozen"  # of each image: norms and gates held at its pooled features
    derivative = "derivative"  # of each image: the head's derivative at its pooled features
    attention = "attention"  # of each image and cell: through the last attention, held
    cells = "cells"  # of each image and cell: layers over all cells at once (VGG), gates held


@dataclass(frozen=True)
class AffineHead:
    """``logit[k] = mean over cells of weight[k] x features + bias[k]``.

    Attributes:
        weight: (K, C) class weights; the map of class k is ``weight[k]`` times the features.
        bias: (K,).
        rectified: the network scores each cell, adds the bias, rectifies, then averages
            (SqueezeNet): map = relu(weight x features + bias), and the constant is zero.
    """

    grid: FeatureGrid
    weight: torch.Tensor
    bias: torch.Tensor
    rectified: bool = False
    kind = HeadKind.affine

    @property
    def constant(self) -> torch.Tensor:
        """(K,) what the logits hold beside the mean of the maps."""
        return torch.zeros_like(self.bias) if self.rectified else self.bias

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """The class scores (B, K) of pooled features (B, C)."""
        logits = F.linear(pooled, self.weight, self.bias)
        return logits.relu() if self.rectified else logits


@dataclass(frozen=True)
class PooledHead:
    """A head that averages over the cells and then is not affine: a norm or an activation.

    Attributes:
        function: the network's own head.
        kind: ``frozen`` holds norms and gates at the image's pooled features, so that the map
            still adds up to the logit but for a constant of biases; ``derivative`` is the local
            derivative, which leaves out what a change of the features does not change.
    """

    grid: FeatureGrid
    function: Head
    kind: HeadKind

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """The class scores (B, K) of pooled features (B, C)."""
        return self.function(self.grid.one_cell(pooled))

    def class_weights(self, pooled: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The weights (B, n, C) that score the cells of each image for its wanted classes.

        Needs a graph of the head at B vectors, never of the network before it.

        Args:
            pooled: (B, C) what the head's function starts from, the mean over the cells.
            wanted: see ``gradients``.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = pooled.clone().requires_grad_()
            with nullcontext() if self.kind is HeadKind.derivative else Frozen():
                logits = self.logits(leaf)
            weights = gradients(logits, leaf, wanted)
        # Nothing to stack where no image of the batch wants a class.
        found = pooled.new_empty(len(pooled), len(weights), pooled.shape[1])
        for place, weight in enumerate(weights):
            found[:, place] = weight
        return found

    def frozen_constant(self, pooled: torch.Tensor) -> torch.Tensor:
        """(B, K): what the logits hold beside the mean of the frozen maps.

        Computed apart from those: the scores of a zero vector, held at the features (B, C).
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = pooled.clone().requires_grad_()
            with Frozen() as held:
                self.logits(leaf)
            with Frozen(held.tape):
                return self.logits(torch.zeros_like(leaf).requires_grad_()).detach()


@dataclass(frozen=True)
class TailHead:
    """A head that reads a class token, attends over the cells or flattens them; see ``tail``.

    Attributes:
        module_name: path of the module whose first tensor argument is the features, from which on
            the network is affine once its gates are held.
        grid: how those features are read.
        kind: ``attention`` or ``cells``.
    """

    module_name: str
    grid: FeatureGrid
    kind: HeadKind


def gradients(logits: torch.Tensor, leaf: torch.Tensor, wanted: torch.Tensor) -> list[torch.Tensor]:
    """Of logits (B, K), n tensors of the leaf's shape.

    Args:
        wanted: (B, n) int64, classes; or (B, n, K), how much of each class.
    """
    # A copy, as what was made in inference mode cannot enter a graph.
    wanted = wanted.to(logits.device).clone()
    if wanted.ndim == 2:
        scores = logits.gather(1, wanted)
    else:
        scores = torch.bmm(wanted, logits[:, :, None])[:, :, 0]
    sums = (scores[:, place].sum() for place in range(scores.shape[1]))
    return [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in sums]


ClassifierHead = AffineHead | PooledHead | TailHead


def score_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference between scores (B, K), as a share of the spread of those expected."""
    spread = float(expected.max() - expected.min())
    return float((actual - expected).abs().max()) / max(spread, 1e-30)


def sum_error(
    means: torch.Tensor, constant: torch.Tensor, logits: torch.Tensor, class_ids: torch.Tensor
) -> float:
    """The largest |mean of map + constant - logit|, as a share of the logits' spread.

    Args:
        means: (B, n) over the cells of the maps of the classes ``class_ids`` (B, n).
        constant, logits: (B, K).
    """
    summed = means + constant.gather(1, class_ids)
    error = (summed - logits.gather(1, class_ids)).abs().max()
    return float(error / (logits.max() - logits.min()))
