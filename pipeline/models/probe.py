"""Find out what a classifier's head computes by feeding it one-cell feature maps.

No list of layer names: if ``head(mean of the features) == head(features)`` the network pools by
averaging, and if the head is affine, ``h(a) + h(b) == h(a + b) + h(0)``, its weight rows are
``h(unit vector) - h(0)``, through any mixture of norms, 1x1 convolutions and linears.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.errors import RequestError
from pipeline.models.split import Split

Head = Callable[[torch.Tensor], torch.Tensor]
# Rounding of float32 networks stays below 1e-5 of the logits' spread; a wrong guess is far above.
TOLERANCE = 1e-3
UNIT_VECTORS_AT_ONCE = 256


class Layout(enum.StrEnum):
    """Where a backbone's output keeps its channels."""

    channels_first = "NCHW"
    channels_last = "NHWC"
    tokens = "NLC"


@dataclass(frozen=True)
class FeatureGrid:
    """How to read a backbone's output as a feature map.

    Attributes:
        layout: where the channels are.
        height, width: of the map, in cells.
    """

    layout: Layout
    height: int
    width: int

    def feature_map(self, features: torch.Tensor) -> torch.Tensor:
        """A backbone's output as (B, C, H, W)."""
        if self.layout is Layout.channels_first:
            return features
        if self.layout is Layout.channels_last:
            return features.permute(0, 3, 1, 2)
        batch, _, channels = features.shape
        return features.transpose(1, 2).reshape(batch, channels, self.height, self.width)

    def one_cell(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (B, C) as a backbone's output of a single cell."""
        if self.layout is Layout.channels_first:
            return vectors[:, :, None, None]
        if self.layout is Layout.channels_last:
            return vectors[:, None, None, :]
        return vectors[:, None, :]


@dataclass(frozen=True)
class ProbedHead:
    """What a head computes: ``logit[k] = mean over cells of map[k] + constant[k]``.

    Attributes:
        weight: (K, C) class weights; the map of class k is ``weight[k]`` times the features.
        bias: (K,).
        rectified: the network scores each cell, adds the bias, rectifies, then averages
            (SqueezeNet): map = relu(weight x features + bias), and the constant is zero.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    rectified: bool

    @property
    def constant(self) -> torch.Tensor:
        """(K,) what the logits hold beside the mean of the maps."""
        return torch.zeros_like(self.bias) if self.rectified else self.bias


def probe(split: Split, images: torch.Tensor, name: str) -> tuple[FeatureGrid, ProbedHead]:
    """Probe the head of a split network on images (B, 3, H, W), of at least two kinds.

    Raises:
        RequestError: the features have no cells, or the head is not an affine function of
            their average.
    """
    features = split.backbone(images)
    if not isinstance(features, torch.Tensor):
        raise RequestError(
            f"model.name: {name} gives a {type(features).__name__} instead of one feature map"
        )
    logits = split.head(features)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise RequestError(f"model.name: {name} gives no (B, K) class scores")
    if not bool(logits.isfinite().all()):
        raise RequestError(f"model.checkpoint: {name} gives scores that are not finite")
    spread = float(logits.max() - logits.min())
    if spread == 0:
        raise RequestError(
            f"model.checkpoint: the last layer of {name} scores all classes alike (a head of "
            f"zeros); set a checkpoint"
        )
    grids = _possible_grids(features, (images.shape[2], images.shape[3]))
    if not grids:
        raise RequestError(
            f"model.name: {name} has no spatial features: its backbone gives shape "
            f"{tuple(features.shape)}, which is no grid of cells (a class token, or one cell), "
            f"so there is no map to read"
        )
    if split.cell_layer is not None:
        return grids[0], _cell_head(split, features, logits, grids[0], spread, name)
    grid = next((grid for grid in grids if _pools(split.head, grid, features, logits)), None)
    if grid is None:
        raise RequestError(
            f"model.name: the head of {name} does not average over the cells of its features "
            f"{tuple(features.shape)} (a class token, attention pooling or a flattening head), "
            f"so they give no class activation map"
        )
    if not _is_affine(split.head, grid, features):
        raise RequestError(
            f"model.name: the head of {name} is not affine after the average pooling (a norm or "
            f"an activation follows it), so no fixed weights give an exact map"
        )
    return grid, _affine_head(split.head, grid, grid.feature_map(features).shape[1], features)


def _possible_grids(features: torch.Tensor, image_size: tuple[int, int]) -> list[FeatureGrid]:
    if features.ndim == 4:
        grids = [
            FeatureGrid(Layout.channels_first, features.shape[2], features.shape[3]),
            FeatureGrid(Layout.channels_last, features.shape[1], features.shape[2]),
        ]
    elif features.ndim == 3:
        # The token grid has the image's aspect ratio.
        tokens = features.shape[1]
        height = round(math.sqrt(tokens * image_size[0] / image_size[1]))
        width = tokens // max(height, 1)
        grids = [FeatureGrid(Layout.tokens, height, width)] if height * width == tokens else []
    else:
        grids = []
    return [grid for grid in grids if grid.height * grid.width > 1]


def _close(actual: torch.Tensor, expected: torch.Tensor, spread: float) -> bool:
    return float((actual - expected).abs().max()) <= TOLERANCE * spread


def _pools(head: Head, grid: FeatureGrid, features: torch.Tensor, logits: torch.Tensor) -> bool:
    spread = float(logits.max() - logits.min())
    mean = grid.feature_map(features).mean(dim=(2, 3))
    try:
        pooled = head(grid.one_cell(mean))
    except (RuntimeError, AssertionError, ValueError, IndexError):
        # The head does not take one cell in this layout: so this is not its layout.
        return False
    return pooled.shape == logits.shape and _close(pooled, logits, spread)


def _is_affine(head: Head, grid: FeatureGrid, features: torch.Tensor) -> bool:
    cells = grid.feature_map(features).flatten(2)
    noise = torch.randn(cells.shape[:2], generator=torch.Generator().manual_seed(0)).to(cells)

    def score(vectors: torch.Tensor) -> torch.Tensor:
        return head(grid.one_cell(vectors))

    # An activation is nearly affine for the tiny features of a network with random weights, so
    # the test is made at their own scale and at one where an activation shows.
    for scale in (float(cells.std()), 10.0):
        first = cells[:, :, 0] + scale * noise
        second = cells[:, :, -1] - 2 * scale * noise.flip(0)
        left = score(first) + score(second)
        right = score(first + second) + score(torch.zeros_like(first))
        if not _close(left, right, float(left.max() - left.min())):
            return False
    return True


def _affine_head(
    head: Head, grid: FeatureGrid, channels: int, features: torch.Tensor
) -> ProbedHead:
    # Unit vectors of the features' own scale keep the subtraction of h(0) exact enough.
    scale = float(features.abs().mean().clamp(min=1e-6))
    bias = head(grid.one_cell(features.new_zeros(1, channels)))[0]
    columns = []
    for start in range(0, channels, UNIT_VECTORS_AT_ONCE):
        rows = min(UNIT_VECTORS_AT_ONCE, channels - start)
        units = features.new_zeros(rows, channels)
        units[torch.arange(rows), torch.arange(start, start + rows)] = scale
        columns.append((head(grid.one_cell(units)) - bias) / scale)
    return ProbedHead(torch.cat(columns).T.contiguous(), bias.clone(), rectified=False)


def _cell_head(
    split: Split,
    features: torch.Tensor,
    logits: torch.Tensor,
    grid: FeatureGrid,
    spread: float,
    name: str,
) -> ProbedHead:
    layer = split.cell_layer
    assert layer is not None
    weight = layer.weight[:, :, 0, 0].detach().clone()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
    cells = torch.einsum("kc,bchw->bkhw", weight, grid.feature_map(features))
    cells = cells + bias[:, None, None]
    for rectified in (True, False):
        scores = cells.relu() if rectified else cells
        if _close(scores.mean(dim=(2, 3)), logits, spread):
            return ProbedHead(weight, bias, rectified)
    raise RequestError(
        f"model.name: the head of {name} is neither a 1x1 convolution that is averaged nor one "
        f"that is rectified and averaged"
    )
