"""Find out what a classifier's head computes by feeding it one-cell feature maps.

No list of layer names: if ``head(mean of the features) == head(features)`` the network pools by
averaging, and if the head is affine, ``h(a) + h(b) == h(a + b) + h(0)``, its weight rows are
``h(unit vector) - h(0)``, through any mixture of norms, 1x1 convolutions and linears. A head that
is not affine after the pooling is kept as a function.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch

from cambox.errors import RequestError
from cambox.models.heads import (
    TOLERANCE,
    AffineHead,
    FeatureGrid,
    HeadKind,
    PooledHead,
    possible_grids,
    score_error,
    sum_error,
)
from cambox.models.split import NotPooledError, Split

POOLED_KINDS = (HeadKind.affine, HeadKind.frozen, HeadKind.derivative)
UNIT_VECTORS_AT_ONCE = 256


def probe(
    split: Split,
    images: torch.Tensor,
    name: str,
    kinds: Collection[HeadKind] = POOLED_KINDS,
    tolerance: float = TOLERANCE,
) -> AffineHead | PooledHead:
    """Probe the head of a split network on images (B, 3, H, W), of at least two kinds.

    Args:
        kinds: what the head may be: affine where it is, else frozen where what is held leaves it
            affine, else the derivative.
        tolerance: what sums may be off, as a share of the logits' spread.

    Raises:
        NotPooledError: the features have no cells, or the head does not average over them.
        RequestError: the scores are of no use, or the head is of none of the kinds.
    """
    features = split.backbone(images)
    if not isinstance(features, torch.Tensor):
        raise NotPooledError(f"gives a {type(features).__name__} instead of one feature map")
    logits = split.head(features)
    require_useful(logits, name)
    grids = possible_grids(tuple(features.shape), (images.shape[2], images.shape[3]))
    if not grids:
        raise NotPooledError(
            f"has no spatial features: its backbone gives shape {tuple(features.shape)}"
        )
    if split.cell_layer is not None:
        return _cell_head(split, features, logits, grids[0])
    heads = (PooledHead(grid, split.head, HeadKind.frozen) for grid in grids)
    held = next((one for one in heads if _pooling_error(one, features, logits) <= tolerance), None)
    if held is None:
        raise NotPooledError(
            f"does not average over the cells of its features {tuple(features.shape)}"
        )
    if HeadKind.affine in kinds and _affine_error(held, features) <= tolerance:
        return _affine_head(held, features)
    if HeadKind.frozen in kinds and _frozen_error(held, features, logits) <= tolerance:
        return held
    if HeadKind.derivative in kinds:
        return replace(held, kind=HeadKind.derivative)
    raise RequestError(
        f"cam.nonlinear_head: what the head of {name} computes after the pooling is not "
        f"affine even with its norms and gates held; set derivative"
    )


def require_useful(logits: object, name: str) -> None:
    """Refuse scores that no class can be told from.

    Raises:
        RequestError: they are no (B, K) tensor, not finite, or all alike.
    """
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise RequestError(f"model.name: {name} gives no (B, K) class scores")
    if not bool(logits.isfinite().all()):
        raise RequestError(f"model.checkpoint: {name} gives scores that are not finite")
    if float(logits.max() - logits.min()) == 0:
        raise RequestError(
            f"model.checkpoint: the last layer of {name} scores all classes alike (a head of "
            f"zeros); set a checkpoint"
        )


def _pooling_error(head: PooledHead, features: torch.Tensor, logits: torch.Tensor) -> float:
    """How far the head of the cells' mean is from the head of the cells.

    Asked of louder features as well: attention over the tiny ones of a random network is nearly
    an average, and an activation before the pooling nearly linear.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(features.shape, generator=generator).to(features)
    louder = features + 10 * features.std().clamp(min=0.1) * noise
    errors = []
    for these, scores in ((features, logits), (louder, head.function(louder))):
        try:
            pooled = head.logits(head.grid.feature_map(these).mean(dim=(2, 3)))
        except (RuntimeError, AssertionError, ValueError, IndexError):
            # The head does not take one cell in this layout: so this is not its layout.
            return math.inf
        errors.append(score_error(pooled, scores) if pooled.shape == scores.shape else math.inf)
    return float(np.max(errors))  # which is not a number where one of them is not


def _affine_error(head: PooledHead, features: torch.Tensor) -> float:
    """How far ``h(a) + h(b)`` is from ``h(a + b) + h(0)``."""
    cells = head.grid.feature_map(features).flatten(2)
    noise = torch.randn(cells.shape[:2], generator=torch.Generator().manual_seed(0)).to(cells)
    errors = []
    # An activation is nearly affine for the tiny features of a network with random weights, so
    # the test is made at their own scale and at one where an activation shows.
    for scale in (float(cells.std()), 10.0):
        first = cells[:, :, 0] + scale * noise
        second = cells[:, :, -1] - 2 * scale * noise.flip(0)
        together = head.logits(first + second) + head.logits(torch.zeros_like(first))
        errors.append(score_error(together, head.logits(first) + head.logits(second)))
    return float(np.max(errors))


def _frozen_error(head: PooledHead, features: torch.Tensor, logits: torch.Tensor) -> float:
    """How far the frozen maps and their constant are from the best logits."""
    pooled = head.grid.feature_map(features).mean(dim=(2, 3))
    classes = logits.topk(min(5, logits.shape[1]), dim=1).indices
    means = torch.einsum("bnc,bc->bn", head.class_weights(pooled, classes), pooled)
    return sum_error(means, head.frozen_constant(pooled), logits, classes)


def _affine_head(head: PooledHead, features: torch.Tensor) -> AffineHead:
    channels = head.grid.feature_map(features).shape[1]
    # Unit vectors of the features' own scale keep the subtraction of h(0) exact enough.
    scale = float(features.abs().mean().clamp(min=1e-6))
    bias = head.logits(features.new_zeros(1, channels))[0]
    columns = []
    for start in range(0, channels, UNIT_VECTORS_AT_ONCE):
        rows = min(UNIT_VECTORS_AT_ONCE, channels - start)
        units = features.new_zeros(rows, channels)
        units[torch.arange(rows), torch.arange(start, start + rows)] = scale
        columns.append((head.logits(units) - bias) / scale)
    return AffineHead(head.grid, torch.cat(columns).T.contiguous(), bias.clone())


def _cell_head(
    split: Split, features: torch.Tensor, logits: torch.Tensor, grid: FeatureGrid
) -> AffineHead:
    layer = split.cell_layer
    assert layer is not None
    weight = layer.weight[:, :, 0, 0].detach().clone()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
    cells = torch.einsum("kc,bchw->bkhw", weight, grid.feature_map(features))
    cells = cells + bias[:, None, None]
    for rectified in (True, False):
        scores = cells.relu() if rectified else cells
        if score_error(scores.mean(dim=(2, 3)), logits) <= TOLERANCE:
            return AffineHead(grid, weight, bias, rectified)
    raise NotPooledError(
        "scores each cell by a 1x1 convolution that it neither averages nor rectifies and averages"
    )
