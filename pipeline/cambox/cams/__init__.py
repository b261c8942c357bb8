"""The method: pooling, score maps, top-k classes, boxes. Arrays and tensors; no files, no models.

Bae, Noh, Kim: *Rethinking Class Activation Mapping for Weakly Supervised Object
Localization*, ECCV 2020. The functions with the signatures of its code can be had from here; they
are imported when they are first used, because boxes from stored maps need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cambox.cams.paper import ThresholdedAvgPool2d, batched_index_select, cam

__all__ = ["ThresholdedAvgPool2d", "batched_index_select", "cam"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("cambox.cams.paper"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
