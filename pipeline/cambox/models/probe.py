"""Find out what a classifier's head computes by feeding it one-cell feature maps.

No list of layer names: if ``head(mean of the features) == head(features)`` the network pools by
averaging, and if the head is affine, ``h(a) + h(b) == h(a + b) + h(0)``, its weight rows are
``h(unit vector) - h(0)``, through any mixture of norms, 1x1 convolutions and linears. A head that
is not affine after the pooling is kept as a function.
"""

from __future__ import annotations

from typing import Literal

import torch

from cambox.errors import RequestError
from cambox.models.freeze import Frozen
from cambox.models.grid import FeatureGrid, possible_grids
from cambox.models.heads import AffineHead, Head, HeadKind, PooledHead
from cambox.models.split import NotPooledError, Split
from cambox.models.tail import TOLERANCE

UNIT_VECTORS_AT_ONCE = 256


def probe(
    split: Split,
    images: torch.Tensor,
    name: str,
    nonlinear: Literal["auto", "frozen", "derivative"] = "auto",
    kind: HeadKind | None = None,
) -> AffineHead | PooledHead:
    """Probe the head of a split network on images (B, 3, H, W), of at least two kinds.

    Args:
        nonlinear: which weights a head that is not affine gives; ``auto``: frozen where what is
            held leaves it affine, else the derivative.
        kind: what another process found already; near the border two devices may differ.

    Raises:
        NotPooledError: the features have no cells, or the head does not average over them.
        RequestError: the scores are of no use, or the head cannot be held.
    """
    if kind in (HeadKind.attention, HeadKind.cells):
        raise NotPooledError("has no head that starts from averaged features")
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
        return _cell_head(split, features, logits, grids[0], name)
    grid = next((grid for grid in grids if _pools(split.head, grid, features, logits)), None)
    if grid is None:
        raise NotPooledError(
            f"does not average over the cells of its features {tuple(features.shape)}"
        )
    if kind is HeadKind.affine or (kind is None and _is_affine(split.head, grid, features)):
        return _affine_head(split.head, grid, grid.feature_map(features).shape[1], features)
    if (kind or nonlinear) == "derivative":
        return PooledHead(grid, split.head, "derivative")
    held = PooledHead(grid, split.head, "frozen")
    if kind is HeadKind.frozen or _is_affine_when_held(held, features, logits):
        return held
    if nonlinear == "frozen":
        raise RequestError(
            f"cam.nonlinear_head: what the head of {name} computes after the pooling is not "
            f"affine even with its norms and gates held; set derivative"
        )
    return PooledHead(grid, split.head, "derivative")


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


def require_same(halves: torch.Tensor, whole: torch.Tensor) -> None:
    """Check that features and head, one after the other, are the network.

    Raises:
        NotPooledError: the network does more.
    """
    if halves.shape != whole.shape or not _close(halves, whole, _spread(whole)):
        raise NotPooledError("does more than its forward_features and forward_head")


def frozen_constant(head: PooledHead, pooled: torch.Tensor) -> torch.Tensor:
    """(B, K): what the logits hold beside the mean of the frozen maps.

    Computed apart from those: the scores of a zero vector, held at the pooled features (B, C).
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = pooled.clone().requires_grad_()
        with Frozen() as held:
            head.logits(leaf)
        with Frozen(held.tape):
            return head.logits(torch.zeros_like(leaf).requires_grad_()).detach()


def _is_affine_when_held(head: PooledHead, features: torch.Tensor, logits: torch.Tensor) -> bool:
    pooled = head.grid.feature_map(features).mean(dim=(2, 3))
    classes = logits.topk(min(5, logits.shape[1]), dim=1).indices
    weights = head.class_weights(pooled, classes)
    summed = torch.einsum("bnc,bc->bn", weights, pooled)
    summed = summed + frozen_constant(head, pooled).gather(1, classes)
    return _close(summed, logits.gather(1, classes), _spread(logits))


def _close(actual: torch.Tensor, expected: torch.Tensor, spread: float) -> bool:
    return float((actual - expected).abs().max()) <= TOLERANCE * spread


def _spread(logits: torch.Tensor) -> float:
    return float(logits.max() - logits.min())


def _pools(head: Head, grid: FeatureGrid, features: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether the head of the cells' mean is the head of the cells.

    Asked of louder features as well: attention over the tiny ones of a random network is nearly
    an average, and an activation before the pooling nearly linear.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(features.shape, generator=generator).to(features)
    louder = features + 10 * features.std().clamp(min=0.1) * noise
    return all(
        _pools_these(head, grid, these, scores)
        for these, scores in ((features, logits), (louder, head(louder)))
    )


def _pools_these(
    head: Head, grid: FeatureGrid, features: torch.Tensor, logits: torch.Tensor
) -> bool:
    mean = grid.feature_map(features).mean(dim=(2, 3))
    try:
        pooled = head(grid.one_cell(mean))
    except (RuntimeError, AssertionError, ValueError, IndexError):
        # The head does not take one cell in this layout: so this is not its layout.
        return False
    return pooled.shape == logits.shape and _close(pooled, logits, _spread(logits))


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
        if not _close(left, right, _spread(left)):
            return False
    return True


def _affine_head(
    head: Head, grid: FeatureGrid, channels: int, features: torch.Tensor
) -> AffineHead:
    # Unit vectors of the features' own scale keep the subtraction of h(0) exact enough.
    scale = float(features.abs().mean().clamp(min=1e-6))
    bias = head(grid.one_cell(features.new_zeros(1, channels)))[0]
    columns = []
    for start in range(0, channels, UNIT_VECTORS_AT_ONCE):
        rows = min(UNIT_VECTORS_AT_ONCE, channels - start)
        units = features.new_zeros(rows, channels)
        units[torch.arange(rows), torch.arange(start, start + rows)] = scale
        columns.append((head(grid.one_cell(units)) - bias) / scale)
    return AffineHead(grid, torch.cat(columns).T.contiguous(), bias.clone())


def _cell_head(
    split: Split, features: torch.Tensor, logits: torch.Tensor, grid: FeatureGrid, name: str
) -> AffineHead:
    layer = split.cell_layer
    assert layer is not None
    weight = layer.weight[:, :, 0, 0].detach().clone()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
    cells = torch.einsum("kc,bchw->bkhw", weight, grid.feature_map(features))
    cells = cells + bias[:, None, None]
    for rectified in (True, False):
        scores = cells.relu() if rectified else cells
        if _close(scores.mean(dim=(2, 3)), logits, _spread(logits)):
            return AffineHead(grid, weight, bias, rectified)
    raise NotPooledError(
        "scores each cell by a 1x1 convolution that it neither averages nor rectifies and averages"
    )
