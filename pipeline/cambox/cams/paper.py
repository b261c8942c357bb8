"""Thresholded average pooling (TAP) and ``cam``, with the signatures of the paper's code.

The pipeline itself uses ``class_score_maps``, which never computes the maps of all classes.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from cambox.cams.score_maps import Shift, class_weights


def thresholded_average(feature_map: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """Average, for each channel, the cells above a share of that channel's maximum (TAP).

    Paper, section 3.1. A channel without a positive cell keeps none and averages to zero: its
    sum is divided by one.

    Args:
        feature_map: (B, C, H, W).
        threshold: theta, 0 to 1.

    Returns:
        (B, C) pooled features.

    Raises:
        ValueError: the feature map is not (B, C, H, W).
    """
    if feature_map.ndim != 4:
        raise ValueError(
            f"expected a feature map of shape (B, C, H, W), got {tuple(feature_map.shape)}"
        )
    limit = feature_map.amax(dim=(2, 3), keepdim=True) * threshold
    kept = torch.where(feature_map > limit, feature_map, torch.zeros_like(feature_map))
    cells = (kept > 0).sum(dim=(2, 3)).clamp(min=1)
    return kept.sum(dim=(2, 3)) / cells


class ThresholdedAvgPool2d(nn.Module):
    """Thresholded average pooling followed by the last layer, and the score map of that layer.

    Args:
        threshold: theta, 0 to 1; 0 averages the positive cells of each channel.
    """

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(
        self,
        feature_map: torch.Tensor,
        layer: nn.Linear | nn.Conv2d,
        truncate: bool = False,
        shift: Shift = 0.0,
        bias: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool, classify, and score each cell.

        Args:
            feature_map: (B, C, H, W).
            layer: a Linear or a 1x1 Conv2d from C channels to K classes.
            truncate: clamp negative class weights to zero (NWC).
            shift: a number, or a named mode, added to the class weights (``class_weights``).
            bias: add the layer's bias to the prediction, where it has one.

        Returns:
            pred (B, K) from the thresholded average, and score_map (B, K, H, W) from the raw
            feature map, without the bias.

        Raises:
            ValueError: shapes do not fit, or a convolution is not 1x1.
        """
        weight = class_weights(_matrix(layer, feature_map), truncate, shift)
        pooled = thresholded_average(feature_map, self.threshold)
        pred = F.linear(pooled, weight, layer.bias if bias else None)
        score_map = F.conv2d(feature_map, weight[:, :, None, None])
        return pred, score_map

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"


def _matrix(layer: nn.Linear | nn.Conv2d, feature_map: torch.Tensor) -> torch.Tensor:
    weight = layer.weight
    if weight.ndim == 4:
        if weight.shape[2:] != (1, 1):
            raise ValueError(f"expected a 1x1 convolution, got a kernel of {weight.shape[2:]}")
        weight = weight[:, :, 0, 0]
    if feature_map.ndim != 4 or feature_map.shape[1] != weight.shape[1]:
        raise ValueError(
            f"expected a feature map of shape (B, {weight.shape[1]}, H, W) for this layer, "
            f"got {tuple(feature_map.shape)}"
        )
    return weight


class PaperModel(Protocol):
    """What ``cam`` asks of a model: ``forward`` leaves ``pred`` and ``feature_map`` behind."""

    pred: torch.Tensor
    feature_map: torch.Tensor
    last_layer: str
    fc: nn.Linear
    conv: nn.Conv2d
    avgpool: ThresholdedAvgPool2d

    def forward(self, images: torch.Tensor) -> object: ...


def cam(
    model: PaperModel,
    cam_topk: int = 1,
    images: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    truncate: bool = False,
    shift: Shift = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The map of the ``cam_topk``-th predicted class, or of the given labels.

    Args:
        model: see ``PaperModel``; ``last_layer`` is ``'fc'`` or ``'conv'``.
        cam_topk: rank of the class, from 1.
        images: (B, 3, H, W), run through the model first; None: use what its last forward left.
        labels: (B,) or (B, 1) class indices; None: the predicted class of that rank.
        truncate: clamp negative class weights to zero (NWC).
        shift: see ``class_weights``.

    Returns:
        cams (B, 1, h, w) at the feature map's size, and the classes (B,).

    Raises:
        ValueError: ``cam_topk`` or ``last_layer`` is not usable.
    """
    if images is not None:
        model.forward(images)
    if labels is None:
        classes = model.pred.shape[1]
        if not 1 <= cam_topk <= classes:
            raise ValueError(f"cam_topk must be from 1 to the {classes} classes, got {cam_topk}")
        labels = model.pred.topk(cam_topk, dim=1).indices[:, cam_topk - 1]
    # The paper's code squeezes, which loses the batch axis of a batch of one.
    labels = labels.reshape(-1)
    if model.last_layer not in ("fc", "conv"):
        raise ValueError(f"last_layer must be 'fc' or 'conv', got {model.last_layer!r}")
    layer = model.fc if model.last_layer == "fc" else model.conv
    _, score_map = model.avgpool(model.feature_map, layer, truncate=truncate, shift=shift)
    return batched_index_select(score_map, 1, labels), labels


def batched_index_select(input: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    """Select, for each item of a batch, its own indices along one dimension.

    Args:
        input: (B, ...).
        dim: the dimension to select from, 1 or more.
        index: (B,) or (B, n) indices into that dimension.

    Returns:
        As ``input``, with length n (1 for (B,)) along ``dim``.

    Raises:
        ValueError: the index is not of the batch.
    """
    if not 1 <= dim < input.ndim or index.shape[:1] != input.shape[:1]:
        raise ValueError(
            f"expected dim from 1 to {input.ndim - 1} and {input.shape[0]} rows of indices, "
            f"got dim {dim} and an index of shape {tuple(index.shape)}"
        )
    index = index.reshape(index.shape[0], -1)
    shape = [input.shape[0], *(1 for _ in input.shape[1:])]
    shape[dim] = index.shape[1]
    expanded = list(input.shape)
    expanded[dim] = index.shape[1]
    return torch.gather(input, dim, index.view(shape).expand(expanded))
