"""The class weights a score map is made with: shift, then negative weight clamping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

ShiftMode = Literal["global_min", "adaptive_min", "global_multiple", "adaptive_multiple"]
Shift = float | Mapping[ShiftMode, float]


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
