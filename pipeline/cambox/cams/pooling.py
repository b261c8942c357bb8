"""Thresholded average pooling (TAP), with the paper's own signature."""

from __future__ import annotations

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
