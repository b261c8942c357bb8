"""Score maps of the wanted classes only."""

from __future__ import annotations

import torch


def class_score_maps(
    feature_map: torch.Tensor,
    weight: torch.Tensor,
    class_ids: torch.Tensor,
    cell_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Score each cell of the feature map for the wanted classes of each image (CAM).

    ``map[b, i, y, x] = sum_c weight[class_ids[b, i], c] * feature_map[b, c, y, x]``; paper,
    equation 2. The weight rows are gathered first, so the cost grows with the wanted classes,
    not with all K.

    Args:
        feature_map: (B, C, H, W).
        weight: (K, C) class weights.
        class_ids: (B, n) int64, the wanted classes of each image.
        cell_bias: (K,) for a classifier that scores each cell, rectifies the scores and
            averages them (SqueezeNet: 1x1 conv, ReLU, pooling): the bias is then part of each
            cell's score and the map is rectified as the classifier does. None: plain CAM.

    Returns:
        (B, n, H, W).

    Raises:
        ValueError: shapes do not fit together.
    """
    batch, channels = feature_map.shape[:2]
    if weight.ndim != 2 or weight.shape[1] != channels:
        raise ValueError(f"expected weights of shape (K, {channels}), got {tuple(weight.shape)}")
    if class_ids.ndim != 2 or class_ids.shape[0] != batch:
        raise ValueError(
            f"expected class indices of shape ({batch}, n), got {tuple(class_ids.shape)}"
        )
    maps = image_score_maps(feature_map, weight[class_ids])
    if cell_bias is None:
        return maps
    return (maps + cell_bias[class_ids][:, :, None, None]).relu()


def image_score_maps(feature_map: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Score each cell of the feature map by class weights of each image's own.

    Args:
        feature_map: (B, C, H, W).
        weights: (B, n, C), of the n wanted classes of each image.

    Returns:
        (B, n, H, W).

    Raises:
        ValueError: shapes do not fit together.
    """
    batch, channels, height, width = feature_map.shape
    if weights.ndim != 3 or (weights.shape[0], weights.shape[2]) != (batch, channels):
        raise ValueError(
            f"expected weights of shape ({batch}, n, {channels}), got {tuple(weights.shape)}"
        )
    maps = torch.bmm(weights, feature_map.flatten(2))
    return maps.view(batch, weights.shape[1], height, width)
