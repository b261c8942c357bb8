"""Batch norms made part of the convolutions before them; names and scores stay.

Which may be folded is seen on a forward pass, not told by names, and afterwards the logits must be
what they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.overrides import TorchFunctionMode

from cambox.models.heads import score_error

# Rounding moves the logits by about 1e-6 of their spread; a wrong step by far more.
TOLERANCE = 1e-4
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
# What asks a tensor for its shape and such, and does not compute with it.
_QUESTIONS = frozenset(("__get__", "dim", "size", "numel", "stride", "is_contiguous"))


def fold_norms(module: nn.Module, images: torch.Tensor, logits: torch.Tensor) -> int:
    """Fold the batch norms that follow a convolution, in place, and lay weights channels-last.

    A norm's module is replaced by its activation, or by an identity.

    Args:
        images: (B, 3, height, width) that the network takes, on its device.
        logits: (B, K), what it makes of them, in the same float32.

    Returns:
        How many norms were folded; 0 where the logits would have changed.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pairs = [
        (conv, norm)
        for conv, norm in neighbours(module, images, CONVOLUTIONS, _NORMS)
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
    if same_logits(module, images, logits):
        return len(pairs)
    for conv, (weight, bias) in kept.items():
        conv.weight, conv.bias = weight, bias
    for parent, name, norm in places:
        setattr(parent, name, norm)
    return 0


def same_logits(module: nn.Module, images: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether a network still makes the same of some images, but for rounding."""
    with torch.inference_mode():
        return score_error(module(images), logits) <= TOLERANCE


def neighbours(
    module: nn.Module,
    images: torch.Tensor,
    first: tuple[type[nn.Module], ...],
    second: tuple[type[nn.Module], ...],
) -> list[tuple[Any, Any]]:
    """Modules of which the second alone uses what the first gives; both are called once.

    Args:
        images: (B, 3, height, width), of the forward pass that is watched.
        first, second: the types of the modules, their subclasses apart.
    """
    uses = _Uses()
    times = Counter[nn.Module]()
    # By the identity of the tensor.
    given_by: dict[int, nn.Module] = {}
    taken_by: dict[int, nn.Module] = {}

    def gave(part: nn.Module, _: object, output: torch.Tensor) -> None:
        times[part] += 1
        given_by[id(output)] = part

    def takes(part: nn.Module, args: tuple[Any, ...]) -> None:
        times[part] += 1
        if not uses.counts[id(args[0])]:
            taken_by[id(args[0])] = part

    with ExitStack() as hooks:
        for part in module.modules():
            if type(part) in first:
                hooks.enter_context(part.register_forward_hook(gave))
            elif type(part) in second:
                hooks.enter_context(part.register_forward_pre_hook(takes))
        with torch.inference_mode(), uses:
            module(images)
    return [
        (giver, taken_by[tensor])
        for tensor, giver in given_by.items()
        if tensor in taken_by
        # What works in place gives the same tensor, and whoever uses that wants its result.
        and (uses.counts[tensor] == 1 or getattr(taken_by[tensor], "inplace", False))
        and times[giver] == times[taken_by[tensor]] == 1
    ]


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
