"""What a classifier's head computes of its features, and the map that follows from it.

All kinds give maps of one meaning: ``mean over cells of map[k] + constant[k] = logit[k]``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from cambox.models.freeze import Frozen
from cambox.models.grid import FeatureGrid
from cambox.models.tail import TailCut

Head = Callable[[torch.Tensor], torch.Tensor]
NonlinearRule = Literal["frozen", "derivative"]


class HeadKind(enum.StrEnum):
    """How the class weights of a map come about."""

    affine = "affine"  # fixed weights
    frozen = "frozen"  # of each image: norms and gates held at its pooled features
    derivative = "derivative"  # of each image: the head's derivative at its pooled features
    attention = "attention"  # of each image and cell: through the last attention, held
    cells = "cells"  # of each image and cell: layers over all cells at once (VGG), gates held


@dataclass(frozen=True)
class AffineHead:
    """``logit[k] = mean over cells of weight[k] x features + bias[k]``.

    Attributes:
        weight: (K, C) class weights; the map of class k is ``weight[k]`` times the features.
        bias: (K,).
        rectified: the network scores each cell, adds the bias, rectifies, then averages
            (SqueezeNet): map = relu(weight x features + bias), and the constant is zero.
    """

    grid: FeatureGrid
    weight: torch.Tensor
    bias: torch.Tensor
    rectified: bool = False

    @property
    def kind(self) -> HeadKind:
        """Affine."""
        return HeadKind.affine

    @property
    def constant(self) -> torch.Tensor:
        """(K,) what the logits hold beside the mean of the maps."""
        return torch.zeros_like(self.bias) if self.rectified else self.bias

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """The class scores (B, K) of pooled features (B, C)."""
        logits = torch.nn.functional.linear(pooled, self.weight, self.bias)
        return logits.relu() if self.rectified else logits


@dataclass(frozen=True)
class PooledHead:
    """A head that averages over the cells and then is not affine: a norm or an activation.

    Attributes:
        function: the network's own head.
        rule: ``frozen`` holds norms and gates at the image's pooled features, so that the map
            still adds up to the logit but for a constant of biases; ``derivative`` is the local
            derivative, which leaves out what a change of the features does not change.
    """

    grid: FeatureGrid
    function: Head
    rule: NonlinearRule

    @property
    def kind(self) -> HeadKind:
        """Frozen or derivative."""
        return HeadKind(self.rule)

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """The class scores (B, K) of pooled features (B, C)."""
        return self.function(self.grid.one_cell(pooled))

    def class_weights(self, pooled: torch.Tensor, class_ids: torch.Tensor) -> torch.Tensor:
        """The weights (B, n, C) that score the cells of each image for its wanted classes.

        Needs a graph of the head at B vectors, never of the network before it.

        Args:
            pooled: (B, C) what the head's function starts from, the mean over the cells.
            class_ids: (B, n).
        """
        rows: list[torch.Tensor] = []
        with torch.inference_mode(False), torch.enable_grad():
            leaf = pooled.clone().requires_grad_()
            wanted = self._graph(leaf).gather(1, class_ids.clone())
            for place in range(wanted.shape[1]):
                rows += torch.autograd.grad(wanted[:, place].sum(), leaf, retain_graph=True)
        return torch.stack(rows, dim=1)

    def _graph(self, leaf: torch.Tensor) -> torch.Tensor:
        if self.rule == "derivative":
            return self.logits(leaf)
        with Frozen():
            return self.logits(leaf)


@dataclass(frozen=True)
class TailHead:
    """A head that reads a class token, attends over the cells or flattens them; see ``tail``."""

    cut: TailCut

    @property
    def grid(self) -> FeatureGrid:
        """How the features that enter the tail are read."""
        return self.cut.grid

    @property
    def kind(self) -> HeadKind:
        """Attention or cells."""
        return HeadKind.attention if self.cut.attended else HeadKind.cells


ClassifierHead = AffineHead | PooledHead | TailHead
