"""Hold everything in a network that is not linear at its value, so that what is left is affine.

A softmax, the statistics of a norm, the gate of an activation (``gelu(x) = x * gate``) become
constants of the image at hand. The values of the forward pass stay as they are; only what
``torch.autograd`` sees of it changes: the exact weights of the affine function that agrees with
the network at this image. This is how Ali et al., *XAI for Transformers: Better Explanations
through Conservative Propagation* (ICML 2022) treat attention and LayerNorm, and here activations
are treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_Function = Callable[..., Any]
_Arguments = tuple[Any, ...]
_Options = dict[str, Any]

# y = f(x) with f(0) = 0: x times a gate.
_ACTIVATIONS = ("relu", "relu6", "gelu", "silu", "hardswish", "mish", "leaky_relu", "elu", "celu")
_GATED = frozenset((*_ACTIVATIONS, "selu", "prelu", "tanh", "hardtanh", "pow", "__pow__", "square"))
# Attention weights, gates and statistics: constants of the image.
_GATES = ("softmax", "sigmoid", "hardsigmoid", "logsigmoid", "softplus", "exp")
_STATISTICS = ("rsqrt", "sqrt", "reciprocal", "norm", "vector_norm", "var", "std", "var_mean")
_CONSTANT = frozenset((*_GATES, *_STATISTICS, "std_mean"))
_MATRIX_PRODUCTS = frozenset(("matmul", "bmm", "__matmul__", "einsum"))
_PRODUCTS = frozenset(("mul", "multiply", "__mul__", "__rmul__", "__imul__")) | _MATRIX_PRODUCTS
_QUOTIENTS = frozenset(("div", "divide", "true_divide", "__truediv__", "__itruediv__"))
_NORMS = frozenset(("layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize"))


class Frozen(TorchFunctionMode):
    """Within it, a forward pass is affine for ``torch.autograd``.

    Args:
        tape: None records what was frozen; the ``tape`` of such a pass holds a second pass, over
            other inputs, at the values of the first.

    Attributes:
        attended: whether a softmax or an attention was frozen.
    """

    def __init__(self, tape: Sequence[torch.Tensor] | None = None) -> None:
        super().__init__()
        self.tape: list[torch.Tensor] = []
        self.attended = False
        self._replayed: Iterator[torch.Tensor] | None = None if tape is None else iter(tape)

    def __torch_function__(
        self,
        func: _Function,
        types: object,
        args: _Arguments = (),
        kwargs: _Options | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if not name.startswith("__"):
            name = name.rstrip("_").removeprefix("linalg_")
        if not any(_depends(value) for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        if name in _GATED and _depends(args[0]):
            return self._gated(func, args, kwargs)
        if name in _CONSTANT:
            self.attended |= name == "softmax"
            return self._constant(func, args, kwargs)
        if name in _PRODUCTS:
            return self._product(func, name, args, kwargs)
        if name in _QUOTIENTS and _depends(args[1]):
            return func(args[0], self._kept(args[1]), *args[2:], **kwargs)
        if name in _NORMS:
            return self._norm(func, args, kwargs)
        if name == "scaled_dot_product_attention":
            self.attended = True
            query, key, *rest = args
            return func(self._kept(query), self._kept(key), *rest, **kwargs)
        if name == "multi_head_attention_forward":
            self.attended = True
            return self._multi_head_attention(func, args, kwargs)
        return func(*args, **kwargs)

    def _kept(self, value: torch.Tensor) -> torch.Tensor:
        """A value as a constant: this one, or in a second pass that of the first."""
        constant = value.detach() if self._replayed is None else next(self._replayed)
        self.tape.append(constant)
        return constant

    def _gated(self, func: _Function, args: _Arguments, kwargs: _Options) -> torch.Tensor:
        value, *rest = args
        kwargs = {key: kept for key, kept in kwargs.items() if key != "inplace"}
        plain = value.detach()
        # A copy, for the functions that work in place.
        result = func(plain.clone(), *rest, **kwargs)
        safe = torch.where(plain.abs() > 1e-6, plain, torch.ones_like(plain))
        gate = self._kept(torch.where(plain.abs() > 1e-6, result / safe, torch.zeros_like(plain)))
        # What the division rounds away, and the constant of a function that is not 0 at 0.
        remainder = self._kept(result - plain * gate)
        return cast(torch.Tensor, value * gate + remainder)

    def _constant(self, func: _Function, args: _Arguments, kwargs: _Options) -> Any:
        result = func(*map(_detached, args), **kwargs)
        if isinstance(result, torch.Tensor):
            return self._kept(result)
        return tuple(self._kept(part) for part in result)

    def _product(
        self, func: _Function, name: str, args: _Arguments, kwargs: _Options
    ) -> torch.Tensor:
        """Of two factors that both depend on the input one is a gate: the smaller, or the second.

        In matrix products it is the first, as attention stands before the values.
        """
        start = 1 if name == "einsum" else 0
        left, right = args[start : start + 2]
        if _depends(left) and _depends(right):
            if name in _MATRIX_PRODUCTS or left.numel() < right.numel():
                left = self._kept(left)
            else:
                right = self._kept(right)
        return cast(torch.Tensor, func(*args[:start], left, right, *args[start + 2 :], **kwargs))

    def _norm(self, func: _Function, args: _Arguments, kwargs: _Options) -> torch.Tensor:
        """``(x - mean) * constant * weight + bias``: the mean is linear, the spread is not."""
        value, name = args[0], func.__name__
        if name == "normalize":
            result = func(value.detach(), *args[1:], **kwargs)
            safe = torch.where(value.detach().abs() > 0, value.detach(), 1.0)
            return cast(torch.Tensor, value * self._kept(result / safe))

        def given(position: int, key: str, default: Any = None) -> Any:
            return args[position] if len(args) > position else kwargs.get(key, default)

        at = 3 if name == "instance_norm" else 2
        weight, bias = given(at, "weight"), None if name == "rms_norm" else given(at + 1, "bias")
        if name == "rms_norm":
            epsilon = given(3, "eps") or torch.finfo(value.dtype).eps
        else:
            epsilon = given(7 if name == "instance_norm" else 4, "eps", 1e-5)
        # How its statistics are taken: of which shape of the input, along which axes.
        if name in ("layer_norm", "rms_norm"):
            shape = tuple(value.shape)
            axes = tuple(range(-len(given(1, "normalized_shape")), 0))
        else:
            groups = value.shape[1] if name == "instance_norm" else given(1, "num_groups")
            shape, axes = (value.shape[0], groups, -1), (-1,)
            by_channel = (-1, *[1] * (value.ndim - 2))
            weight, bias = (
                None if vector is None else vector.reshape(by_channel) for vector in (weight, bias)
            )
        # In float32, as a norm computes within autocast too.
        grouped = value.float().reshape(shape)
        centred = grouped if name == "rms_norm" else grouped - grouped.mean(axes, keepdim=True)
        variance = centred.detach().square().mean(axes, keepdim=True)
        result = (centred * self._kept((variance + epsilon).rsqrt())).reshape(value.shape)
        if weight is not None:
            result = result * weight
        if bias is not None:
            result = result + bias
        return cast(torch.Tensor, result.to(value.dtype))

    def _multi_head_attention(
        self, func: _Function, args: _Arguments, kwargs: _Options
    ) -> tuple[torch.Tensor, None]:
        """``nn.MultiheadAttention`` (sequence first) with its attention weights as constants."""
        query, key, value, width, heads, in_weight, in_bias = args[:7]
        out_weight, out_bias = args[11:13]
        options = {**kwargs, "need_weights": True, "average_attn_weights": False}
        rest = (_detached(argument) for argument in args[3:])
        _, weights = func(query.detach(), key.detach(), value.detach(), *rest, **options)
        weights = self._kept(weights)  # (B, heads, targets, sources)
        value_bias = None if in_bias is None else in_bias[2 * width :]
        values = F.linear(value, in_weight[2 * width :], value_bias)
        sources, batch, _ = values.shape
        by_head = values.reshape(sources, batch, heads, -1).permute(1, 2, 0, 3)
        mixed = (weights @ by_head).permute(2, 0, 1, 3).flatten(2)
        return F.linear(mixed, out_weight, out_bias), None


def _depends(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value
