"""The layer that a network reads its classes from: logits = weight x features + bias."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from cambox.errors import RequestError

if TYPE_CHECKING:
    from cambox.models.classifier import Classifier

# Rounding of a layer of some thousand features; another layer's output is far off.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-4


def with_last_layer(classifier: Classifier, name: str) -> Classifier:
    """The classifier, whose scores then come with what its last layer sees.

    That is the linear layer whose output the logits are. It is found by one forward pass, not by
    its name.

    Args:
        name: of the model, for the error.

    Raises:
        RequestError: the logits are no linear layer's output.
    """
    outputs: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def note(at: str, _: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        outputs.append((at, given[0].detach().flatten(1), output.detach().flatten(1)))

    with ExitStack() as hooks:
        for at, part in classifier.module.named_modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                hooks.enter_context(part.register_forward_hook(partial(note, at)))
        logits = classifier.try_out().logits
    for at, given, output in reversed(outputs):
        if output.shape == logits.shape and _alike(output, logits):
            layer = classifier.module.get_submodule(at)
            assert isinstance(layer.weight, torch.Tensor)
            bias = layer.bias if isinstance(layer.bias, torch.Tensor) else None
            weight = layer.weight.flatten(1)
            # A convolution of more than one cell sees more than a vector.
            if weight.shape[1] == given.shape[1] and _alike(
                F.linear(given.float(), weight.float(), bias), logits
            ):
                return replace(classifier, last_layer=at)
    raise RequestError(
        f"model.name: the classes of {name} are not what a linear layer makes of one vector an "
        f"image, so there is none to store or to train anew; take another network"
    )


def _alike(output: torch.Tensor, logits: torch.Tensor) -> bool:
    return torch.allclose(output.float(), logits, rtol=_RELATIVE, atol=_ABSOLUTE)


@contextmanager
def inputs_of(module: nn.Module, name: str | None) -> Iterator[list[torch.Tensor]]:
    """What a layer of a network is given, (B, D) float32 each, filled by forward passes.

    Args:
        name: of the layer; None: of none.
    """
    inputs: list[torch.Tensor] = []

    def record(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        inputs.append(given[0].detach().flatten(1).float())

    with ExitStack() as hooks:
        if name is not None:
            layer = module.get_submodule(name)
            hooks.enter_context(layer.register_forward_pre_hook(record))
        yield inputs
