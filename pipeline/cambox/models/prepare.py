"""A network made quick for inference, its module names and its scores unchanged.

Batch norms become part of the convolutions before them, weights are laid out channels-last, and
on a CPU a convolution computes the activation that follows it while its output is in the cache,
on weights that lie as the processor likes them.
Where this may be done is seen on a forward pass, not told by names, and afterwards the logits must
be what they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.padding import pad_same
from torch import nn
from torch.overrides import TorchFunctionMode

# Rounding moves the logits by about 1e-6 of their spread; a wrong step by far more.
TOLERANCE = 1e-4
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
# As oneDNN calls them, with their constants.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
# What asks a tensor for its shape and such, and does not compute with it.
_QUESTIONS = frozenset(("__get__", "dim", "size", "numel", "stride", "is_contiguous"))


def fold_norms(module: nn.Module, images: torch.Tensor, logits: torch.Tensor) -> int:
    """Fold the batch norms that follow a convolution, in place, and lay weights channels-last.

    A norm's module is replaced by its activation, or by an identity.

    Args:
        images: (B, 3, height, width) that the network takes, on its device.
        logits: (B, K), what it makes of them.

    Returns:
        How many norms were folded; 0 where the logits would have changed.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pairs = [
        (conv, norm)
        for conv, norm in _neighbours(module, images, _CONVOLUTIONS, _NORMS)
        if _has_statistics(norm)
    ]
    kept = {conv: (conv.weight, conv.bias) for conv, _ in pairs}
    norms = {norm for _, norm in pairs}
    places = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if child in norms
    ]
    for conv, norm in pairs:
        _fold(conv, norm)
    for parent, name, norm in places:
        setattr(parent, name, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
    if _alike(module, images, logits):
        return len(pairs)
    for conv, (weight, bias) in kept.items():
        conv.weight, conv.bias = weight, bias
    for parent, name, norm in places:
        setattr(parent, name, norm)
    return 0


def pack_convolutions(module: nn.Module, images: torch.Tensor, logits: torch.Tensor) -> int:
    """Let convolutions on a CPU run on weights in oneDNN's own layout, with what activates them.

    Modules stay where they are, and outside of inference mode or in another precision they compute
    as before.

    Args:
        images: (B, 3, height, width) that the network takes, on its device.
        logits: (B, K), what it makes of them.

    Returns:
        How many activations are computed by the convolution before them.
    """
    activated = dict(_neighbours(module, images, _CONVOLUTIONS, tuple(_ACTIVATIONS)))
    convolutions = [
        part
        for part in module.modules()
        if isinstance(part, nn.Conv2d)
        and type(part) in _CONVOLUTIONS
        and part.padding_mode == "zeros"
        and not isinstance(part.padding, str)
    ]
    changed: list[nn.Module] = []
    for conv in convolutions:
        activation = activated.get(conv)
        _replace_forward(conv, _PackedConvolution(conv, conv.forward, activation))
        changed.append(conv)
        if activation is not None:
            _replace_forward(activation, _DoneBefore(activation.forward))
            changed.append(activation)
    if _alike(module, images, logits):
        return len(changed) - len(convolutions)
    for part in changed:
        part.__dict__.pop("forward")
    return 0


def packed_weights(module: nn.Module) -> list[torch.Tensor]:
    """The weights that ``pack_convolutions`` laid out anew, beside the module's own."""
    forwards = [part.__dict__.get("forward") for part in module.modules()]
    return [
        forward.weight
        for forward in forwards
        if isinstance(forward, _PackedConvolution) and forward.weight is not None
    ]


class _PackedConvolution:
    """The forward of a convolution and of the activation after it, if any."""

    def __init__(
        self,
        conv: nn.Conv2d,
        plain: Callable[[torch.Tensor], torch.Tensor],
        activation: nn.Module | None,
    ) -> None:
        self.conv = conv
        self.plain = plain
        self.same = isinstance(conv, Conv2dSame)
        self.padding = (0, 0) if self.same else conv.padding
        self.activation, self.constants = (
            ("none", []) if activation is None else _ACTIVATIONS[type(activation)]
        )
        self.weight: torch.Tensor | None = None

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        if not _packed(features):
            return self.plain(features)
        conv = self.conv
        if self.same:
            features = pad_same(features, conv.kernel_size, conv.stride, conv.dilation)
        sizes = (self.padding, conv.stride, conv.dilation, conv.groups)
        # The two operators that torch.compile makes of a convolution on a CPU.
        if self.weight is None:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(
                conv.weight, *sizes, list(features.shape)
            )
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            features, self.weight, conv.bias, *sizes, self.activation, self.constants, ""
        )
        return result


@dataclass
class _DoneBefore:
    """The forward of an activation that the convolution before it has computed."""

    plain: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return features if _packed(features) else self.plain(features)


def _replace_forward(part: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Of this one module; its type, its place and its hooks stay."""
    part.__dict__["forward"] = forward


def _packed(features: torch.Tensor) -> bool:
    return (
        torch.is_inference_mode_enabled()
        and features.dtype is torch.float32
        and features.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


@dataclass
class _Calls:
    """How often modules were called, and which tensors they gave or took."""

    times: Counter[nn.Module] = field(default_factory=Counter)
    given_by: dict[int, nn.Module] = field(default_factory=dict)
    taken_by: dict[int, nn.Module] = field(default_factory=dict)


class _Uses(TorchFunctionMode):
    """Counts in how many computations each tensor takes part."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        # Alive, because the next tensor could get the identity of one that is gone.
        self._seen: list[torch.Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") not in _QUESTIONS:
            stack: list[Any] = [*args, *(kwargs or {}).values()]
            while stack:
                value = stack.pop()
                if isinstance(value, torch.Tensor):
                    self.counts[id(value)] += 1
                    self._seen.append(value)
                elif isinstance(value, (list, tuple)):
                    stack += value
        return func(*args, **(kwargs or {}))


def _neighbours(
    module: nn.Module,
    images: torch.Tensor,
    first: tuple[type[nn.Module], ...],
    second: tuple[type[nn.Module], ...],
) -> list[tuple[Any, Any]]:
    """Modules of which the second alone uses what the first gives; both are called once."""
    calls, uses = _Calls(), _Uses()

    def gave(part: nn.Module, _: object, output: torch.Tensor) -> None:
        calls.times[part] += 1
        calls.given_by[id(output)] = part

    def takes(part: nn.Module, args: tuple[Any, ...]) -> None:
        calls.times[part] += 1
        if not uses.counts[id(args[0])]:
            calls.taken_by[id(args[0])] = part

    handles = []
    for part in module.modules():
        if type(part) in first:
            handles.append(part.register_forward_hook(gave))
        elif type(part) in second:
            handles.append(part.register_forward_pre_hook(takes))
    try:
        with torch.inference_mode(), uses:
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (giver, calls.taken_by[tensor])
        for tensor, giver in calls.given_by.items()
        if tensor in calls.taken_by
        # What works in place gives the same tensor, and whoever uses that wants its result.
        and (uses.counts[tensor] == 1 or getattr(calls.taken_by[tensor], "inplace", False))
        and calls.times[giver] == calls.times[calls.taken_by[tensor]] == 1
    ]


def _has_statistics(norm: nn.BatchNorm2d) -> bool:
    drop = getattr(norm, "drop", None)
    return norm.running_var is not None and (drop is None or isinstance(drop, nn.Identity))


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """``norm(conv(x))`` as a convolution alone; computed in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    offset = -norm.running_mean.double() * scale
    if norm.affine:
        scale = scale * norm.weight.double()
        offset = offset * norm.weight.double() + norm.bias.double()
    if conv.bias is not None:
        offset = offset + conv.bias.double() * scale
    weight = (conv.weight.double() * scale[:, None, None, None]).to(conv.weight.dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=False)


def _alike(module: nn.Module, images: torch.Tensor, logits: torch.Tensor) -> bool:
    with torch.inference_mode():
        now: torch.Tensor = module(images)
    return float((now - logits).abs().max()) <= TOLERANCE * float(logits.max() - logits.min())
