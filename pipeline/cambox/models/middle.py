"""Middle layers: where the same forward pass has finer features than the last feature map."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from cambox.errors import RequestError
from cambox.models.heads import FeatureGrid, Layout, possible_grids

if TYPE_CHECKING:
    from cambox.models.classifier import Classifier

# Finer cells follow texture, coarser ones say no more than the last feature map. A margin of an
# eighth lets in the sizes that padding makes.
FINEST_STRIDE, COARSEST_STRIDE = 7, 18
# Modules below the children of the model's children are parts of blocks, not stages.
DEEPEST_NAME = 2


@dataclass(frozen=True)
class MiddleLayer:
    """A module, and how to read its output as a feature map."""

    name: str
    grid: FeatureGrid


def with_middle_layers(classifier: Classifier, count: int) -> Classifier:
    """The classifier, whose scores then come with the features of its last middle layers.

    A middle layer is the last module of a stage, that is of one size and one number of channels,
    with a stride of 8 or 16 pixels, before the last feature map. They are found by one forward
    pass, not by their names.

    Args:
        count: the most layers to take.

    Raises:
        RequestError: the network has none.
    """
    size = classifier.preprocessing.height, classifier.preprocessing.width
    layout = classifier.head.grid.layout
    # Each with its stage: channels, height and width of its features.
    outputs: list[tuple[torch.Size, MiddleLayer]] = []

    def note(name: str, _: nn.Module, __: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and (grid := _grid(output, size, layout)):
            outputs.append((grid.feature_map(output).shape[1:], MiddleLayer(name, grid)))

    with ExitStack() as hooks:
        for name, part in classifier.module.named_modules():
            if name and name.count(".") < DEEPEST_NAME:
                hooks.enter_context(part.register_forward_hook(partial(note, name)))
        final = classifier.try_out().feature_map.shape[1:]
    # What runs after the last feature map, such as a head of convolutions, is no middle layer.
    before = itertools.takewhile(lambda output: output[0] != final, outputs)
    # Of modules of one stage the last one stays.
    stages = dict(before)
    if not stages:
        raise RequestError(
            "cam.refine.steps: the network has no features of a stride of 8 or 16 pixels before "
            "its last feature map to compare cells by; set it to 0"
        )
    return replace(classifier, middle=tuple(stages.values())[-count:])


@contextmanager
def recorded(module: nn.Module, layers: tuple[MiddleLayer, ...]) -> Iterator[list[torch.Tensor]]:
    """The outputs of some layers, (B, C, H, W) float32 each, filled by a forward pass."""
    outputs: list[torch.Tensor] = []

    def record(grid: FeatureGrid, _: nn.Module, __: object, output: torch.Tensor) -> None:
        outputs.append(grid.feature_map(output.detach()).float())

    with ExitStack() as hooks:
        for layer in layers:
            part = module.get_submodule(layer.name)
            hooks.enter_context(part.register_forward_hook(partial(record, layer.grid)))
        yield outputs


def _grid(output: torch.Tensor, size: tuple[int, int], layout: Layout) -> FeatureGrid | None:
    """The grid of cells with the image's aspect ratio and a stride in bounds, if there is one."""
    grids = [
        grid
        for grid in possible_grids(tuple(output.shape), size)
        if all(
            FINEST_STRIDE <= pixels / cells <= COARSEST_STRIDE
            for pixels, cells in zip(size, (grid.height, grid.width), strict=True)
        )
    ]
    # Where channels and cells are as many, the layout of the last feature map decides.
    return min(grids, key=lambda grid: grid.layout is not layout, default=None)
