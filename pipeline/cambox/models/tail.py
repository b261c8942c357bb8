"""Maps of networks whose classes are read off one token, or off all cells at once.

A class token, attention pooling and a flattening head have no pooled vector that a map could be
read from. But the last part of such a network, from some module on, is affine in the features
that enter that module once softmax, norms and gates are held (``freeze.Frozen``): ``logit = sum
over cells of <weight[cell], feature[cell]> + constant``. Its terms are the map. For a class token
that is what each patch token gives the class token in the last block, through attention, values
and all that follows; what the class token has gathered in earlier blocks is in the constant.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from cambox.models.freeze import Frozen
from cambox.models.heads import (
    TOLERANCE,
    FeatureGrid,
    HeadKind,
    TailHead,
    gradients,
    possible_grids,
    sum_error,
)

# A cell that matters less than this share of the most important one does not count as read.
_NEGLIGIBLE = 1e-7
_READ_CELLS = 0.9


@dataclass(frozen=True)
class TailPass:
    """A forward pass that kept the graph of its tail, and of nothing before it.

    Attributes:
        features: what entered the tail's module, a leaf of the graph.
        logits: (B, K), with the graph.
        frozen: what was held.
    """

    features: torch.Tensor
    logits: torch.Tensor
    frozen: Frozen


def run_with_tail(
    module: nn.Module,
    head: TailHead,
    images: torch.Tensor,
    held: Frozen | None = None,
    change: Callable[[torch.Tensor], torch.Tensor] = lambda features: features,
) -> TailPass:
    """Run the network once; autograd sees only what comes after the features that enter the tail.

    Args:
        images: (B, 3, height, width).
        held: an earlier pass over the same images, whose constants are used again.
        change: applied to those features.
    """
    frozen = Frozen(None if held is None else held.tape)
    leaves: list[torch.Tensor] = []

    def start_the_tail(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if leaves:
            return None  # a module that is used twice: the tail starts at the first use
        place = next(i for i, value in enumerate(args) if isinstance(value, torch.Tensor))
        leaf = change(args[place].detach()).clone().requires_grad_()
        leaves.append(leaf)
        after_the_cut.enter_context(torch.enable_grad())
        after_the_cut.enter_context(frozen)
        # Not the leaf itself, which a module that works in place could not change. Attention is
        # given one tensor as query, key and value.
        features = leaf.clone()
        return tuple(features if value is args[place] else value for value in args)

    hook = module.get_submodule(head.module_name).register_forward_pre_hook(start_the_tail)
    with hook, torch.inference_mode(False), torch.no_grad(), ExitStack() as after_the_cut:
        logits: torch.Tensor = module(images)
    return TailPass(leaves[0], logits, frozen)


def contributions(run: TailPass, grid: FeatureGrid, wanted: torch.Tensor) -> torch.Tensor:
    """What each cell adds to the logits of the wanted classes.

    Args:
        grid: how the features are read.
        wanted: see ``gradients``.

    Returns:
        (B, n, H, W), times the number of cells: the mean over the cells plus a constant is the
        logit.
    """
    with torch.inference_mode(False), torch.enable_grad():
        weights = gradients(run.logits, run.features, wanted)
    features = run.features.detach()
    # Nothing to stack where no image of the batch wants a class.
    maps = features.new_empty(len(features), len(weights), grid.height, grid.width)
    for place, weight in enumerate(weights):
        maps[:, place] = grid.feature_map(weight * features).sum(dim=1)
    return maps * (grid.height * grid.width)


def tail_constant(
    module: nn.Module, head: TailHead, images: torch.Tensor, run: TailPass
) -> torch.Tensor:
    """(B, K): what the logits hold beside the contributions of the cells.

    Computed apart from those: the logits of a pass over no cell at all, held at ``run``.
    """
    return run_with_tail(module, head, images, run.frozen, head.grid.without_cells).logits.detach()


def find_tail(module: nn.Module, images: torch.Tensor) -> TailHead | None:
    """The last module from which on the network is affine in a grid of cells that it reads.

    One pass over the whole network with everything held: the modules are tried from the last to
    the first, and of the path of the first that fits the outermost numbered block is taken, so
    that a block is not cut in two.

    Args:
        images: (B, 3, height, width), of at least two kinds.
    """
    size = (images.shape[2], images.shape[3])
    with torch.inference_mode(False), torch.enable_grad():
        logits, inputs = _held_pass(module, images, size)
        if not inputs:
            return None
        # One class of each image: where only a maximum over the cells is read, a cell or two are.
        weights = torch.autograd.grad(
            logits.amax(dim=1).sum(), [features for _, features in inputs], allow_unused=True
        )
    names = {name for name, _ in inputs}
    for (name, features), weight in zip(reversed(inputs), reversed(weights), strict=True):
        if weight is None:
            continue
        for grid in possible_grids(tuple(features.shape), size):
            if not _reads_the_cells(grid, weight):
                continue
            for path in _whole_block_first(name, names):
                head = _verified(module, path, grid, images)
                if head is not None:
                    return head
    return None


def _held_pass(
    module: nn.Module, images: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, list[tuple[str, torch.Tensor]]]:
    """Logits, and the first tensor that enters each module where it can be read as cells."""
    inputs: list[tuple[str, torch.Tensor]] = []

    def record(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        features = next((value for value in args if isinstance(value, torch.Tensor)), None)
        if features is None or not features.requires_grad:
            return
        # Pixels are no features: what each adds is exact, and noise.
        is_image = features.shape[1:] == images.shape[1:]
        if possible_grids(tuple(features.shape), size) and not is_image:
            inputs.append((name, features))

    with ExitStack() as hooks:
        for name, part in module.named_modules():
            if name:
                hooks.enter_context(part.register_forward_pre_hook(partial(record, name)))
        with Frozen():
            return module(images.clone().requires_grad_()), inputs


def _reads_the_cells(grid: FeatureGrid, weight: torch.Tensor) -> bool:
    strength = grid.feature_map(weight).abs().amax(dim=1)
    return float((strength > _NEGLIGIBLE * strength.max()).float().mean()) >= _READ_CELLS


def _whole_block_first(name: str, names: set[str]) -> list[str]:
    parts = name.split(".")
    paths = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    blocks = [path for path in paths[:-1] if path[-1].isdigit() and path in names]
    return [*blocks, name]


def _verified(
    module: nn.Module, path: str, grid: FeatureGrid, images: torch.Tensor
) -> TailHead | None:
    """The head, if the arithmetic holds: contributions and the logits without any cell add up."""
    head = TailHead(path, grid, HeadKind.cells)
    run = run_with_tail(module, head, images)
    if run.frozen.attended:
        head = replace(head, kind=HeadKind.attention)
    # The input of a block may have other prefix tokens than that of the module inside it.
    for own in possible_grids(tuple(run.features.shape), (images.shape[2], images.shape[3])):
        if (own.height, own.width) == (grid.height, grid.width):
            head = replace(head, grid=own)
            logits = run.logits.detach()
            classes = logits.topk(min(5, logits.shape[1]), dim=1).indices
            means = contributions(run, own, classes).mean(dim=(2, 3))
            constant = tail_constant(module, head, images, run)
            if sum_error(means, constant, logits, classes) <= TOLERANCE:
                return head
    return None
