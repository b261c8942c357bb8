"""Convolutions on a CPU that run on weights laid out for the processor, activation included.

oneDNN computes the activation that follows a convolution while its output is in the cache. The two
operators are those that ``torch.compile`` makes of a convolution; they are no public part of
PyTorch, and where they are missing networks run as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn

from cambox.models.fold import CONVOLUTIONS, neighbours, same_logits

# As oneDNN calls them, with their constants.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}


def pack_convolutions(module: nn.Module, images: torch.Tensor, logits: torch.Tensor) -> int:
    """Let a network's convolutions run on packed weights, with what activates them, in place.

    Modules stay where they are, and outside of inference mode or in another precision they compute
    as before.

    Args:
        images: (B, 3, height, width) that the network takes, on the CPU.
        logits: (B, K), what it makes of them.

    Returns:
        How many activations are computed by the convolution before them; 0 where the logits would
        have changed, or PyTorch was built without the operators.
    """
    if not _has_operators():
        return 0
    activated = dict(neighbours(module, images, CONVOLUTIONS, tuple(_ACTIVATIONS)))
    forwards: dict[nn.Module, Callable[[torch.Tensor], torch.Tensor]] = {}
    for conv in module.modules():
        if type(conv) not in CONVOLUTIONS:
            continue
        assert isinstance(conv, nn.Conv2d)
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        activation = activated.get(conv)
        forwards[conv] = _PackedConvolution(conv, activation)
        if activation is not None:
            forwards[activation] = partial(_done_before, activation)
    for part, forward in forwards.items():
        # Of this one module; its type, its place and its hooks stay.
        part.__dict__["forward"] = forward
    if same_logits(module, images, logits):
        return sum(type(part) in _ACTIVATIONS for part in forwards)
    for part in forwards:
        del part.__dict__["forward"]
    return 0


def _has_operators() -> bool:
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(torch.ops.mkldnn, name)
        for name in ("_reorder_convolution_weight", "_convolution_pointwise")
    )


class _PackedConvolution:
    """The forward of a convolution and of the activation after it, if any."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None) -> None:
        self.conv = conv
        self.same = isinstance(conv, Conv2dSame)
        self.padding = (0, 0) if self.same else conv.padding
        self.activation, self.constants = (
            ("none", []) if activation is None else _ACTIVATIONS[type(activation)]
        )
        self.weight: torch.Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _PackedConvolution:
        """For the copy of the convolution, over the same packed weight."""
        other = copy.copy(self)
        other.conv = copy.deepcopy(self.conv, memo)
        return other

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        if not _packed(features):
            return type(conv).forward(conv, features)
        if self.same:
            features = pad_same(features, conv.kernel_size, conv.stride, conv.dilation)
        sizes = (self.padding, conv.stride, conv.dilation, conv.groups)
        if self.weight is None:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(
                conv.weight, *sizes, list(features.shape)
            )
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            features, self.weight, conv.bias, *sizes, self.activation, self.constants, ""
        )
        return result


def _done_before(activation: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """The forward of an activation that the convolution before it has computed."""
    plain: Callable[..., torch.Tensor] = type(activation).forward
    return features if _packed(features) else plain(activation, features)


def _packed(features: torch.Tensor) -> bool:
    return (
        torch.is_inference_mode_enabled()
        and features.dtype is torch.float32
        and features.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )
