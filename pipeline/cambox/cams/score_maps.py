"""Which classes of an image get a score map, with which class weights, and the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from cambox.config_cam import ShiftMode

Shift = float | Mapping[ShiftMode, float]


@dataclass(frozen=True, slots=True)
class WantedClass:
    """A class that gets a map; rank 0 is a label given with the sample, 1 the best predicted."""

    class_id: int
    rank: int


def wanted_classes(
    predicted: Sequence[int],
    probabilities: Sequence[float],
    labels: Sequence[int],
    classes: Literal["predicted", "label", "both", "none"],
    ranks: Sequence[int] | None = None,
    min_probability: float = 0.0,
    background: int | None = None,
) -> list[WantedClass]:
    """Choose the classes of one image.

    Args:
        predicted: the model's top-k classes, best first.
        probabilities: of those classes, 0 to 1.
        labels: the classes given with the sample, in their order.
        classes: the model's classes, the sample's own, or both. With ``both`` a predicted class
            that is also a label appears once, as the label. With ``none`` there is none.
        ranks: only these ranks of the predicted classes; None: all.
        min_probability: predicted classes below it are left out.
        background: the class of images without an object, which is never wanted; nor are predicted
            classes that are less likely than it. None: there is no such class.

    Returns:
        Labels first, then predicted classes by rank.
    """
    wanted = [
        WantedClass(label, 0)
        for label in (labels if classes in ("label", "both") else ())
        if label != background
    ]
    if classes in ("label", "none"):
        return wanted
    taken = {choice.class_id for choice in wanted}
    for rank, (class_id, probability) in enumerate(
        zip(predicted, probabilities, strict=True), start=1
    ):
        if class_id == background:
            break
        chosen = ranks is None or rank in ranks
        if chosen and probability >= min_probability and class_id not in taken:
            wanted.append(WantedClass(class_id, rank))
    return wanted


def class_weights(weight: torch.Tensor, truncate: bool = False, shift: Shift = 0.0) -> torch.Tensor:
    """Shift the last layer's weights, then clamp the negative ones (NWC).

    Args:
        weight: (K, C) weights of K classes over C channels.
        truncate: negative weight clamping (paper, section 3.2): weights below zero become zero.
        shift: a number added to each weight, or one of the paper code's named modes with its
            number v:

            - ``{"global_min": v}`` adds ``|min(weight)| + v``, so that the smallest is v (where
              the smallest was negative);
            - ``{"adaptive_min": v}`` does so for each class by its own smallest weight;
            - ``{"global_multiple": v}`` makes the largest weight v times the smallest:
              adds ``(max - v min) / (v - 1)``;
            - ``{"adaptive_multiple": v}`` does so for each class. (The paper's code takes the
              absolute minimum for both extremes there, a slip that makes the mode subtract a
              constant; the stated meaning is implemented.)

    Returns:
        (K, C). The shift comes first; the paper's code drops it when ``truncate`` is on.

    Raises:
        ValueError: the weights are not (K, C), or the mode or its number is not usable.
    """
    if weight.ndim != 2:
        raise ValueError(f"expected weights of shape (K, C), got {tuple(weight.shape)}")
    shifted = weight + _offset(weight, shift)
    return shifted.clamp(min=0) if truncate else shifted


def _offset(weight: torch.Tensor, shift: Shift) -> torch.Tensor | float:
    if not isinstance(shift, Mapping):
        return float(shift)
    if len(shift) != 1:
        raise ValueError(f"expected one shift mode, got {dict(shift)}")
    ((mode, value),) = shift.items()
    scope, _, rule = mode.partition("_")
    if scope == "global":
        low, high = weight.min(), weight.max()
    elif scope == "adaptive":
        low, high = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
    else:
        raise ValueError(f"unknown shift mode {mode!r}")
    if rule == "min":
        return low.abs() + value
    if rule == "multiple":
        if value == 1:
            raise ValueError(f"shift {mode}: no shift makes all weights equal; use another number")
        return (high - value * low) / (value - 1)
    raise ValueError(f"unknown shift mode {mode!r}")


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
