"""A linear layer on features, regularised.

Features are centred, and all divided by one number that makes their mean variance one; both are
put into the layer, which meets features as they are. (Each divided by its own spread, weak channels
would weigh as much as strong ones: a worse held-out loss.) The loss is the mean cross-entropy
(softmax) or the mean over the classes' binary ones (sigmoid), each picture weighed by its class,
plus ``strength / 2`` times the sum of squared weights. It is convex: the same pictures in the same
order give the same layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from cambox.linear_probe.examples import Activation, Examples
from cambox.linear_probe.feature_file import ROWS_AT_ONCE, FeatureFile

STEPS = 300
# The logit of a class that no picture is of: it is never predicted.
_ABSENT = -20.0


@dataclass(frozen=True)
class Layer:
    """``logits = weight x features + bias``.

    Attributes:
        weight: (K, D) float64.
        bias: (K,) float64.
    """

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, K) of features (N, D)."""
        made: np.ndarray = features @ self.weight.T + self.bias
        return made


@dataclass(frozen=True)
class Problem:
    """The pictures, whose features stay in their file: sums over all are made block by block.

    Attributes:
        features: (N, D), as they are.
        targets: (N, K present) float32.
        weights: (N, 1) or (N, K present) float32, how much each loss counts.
        present: (K,) bool, the classes that pictures are of; only these are trained.
        mean, scale: (D,) and one number; a layer that is solved is for features less the mean, over
            the scale.
        on_device: the blocks of features, where another device computes and would wait for them.
    """

    features: FeatureFile
    targets: torch.Tensor
    weights: torch.Tensor
    present: np.ndarray
    mean: np.ndarray
    scale: float
    activation: Activation
    on_device: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(cls, examples: Examples, balanced: bool, device: torch.device) -> Problem:
        mean, scale = centre(examples.features)
        present = examples.counts > 0
        targets = examples.targets[:, present]
        weights = class_weights(targets, examples.activation, balanced)
        problem = cls(
            examples.features,
            torch.from_numpy(targets).to(device),
            torch.from_numpy(weights).to(device),
            present,
            mean,
            scale,
            examples.activation,
        )
        return problem._with_blocks_on_device()

    def of_pictures(self, used: np.ndarray) -> Problem:
        """The same with some pictures (N,) bool."""
        some = torch.from_numpy(used).to(self.targets.device)
        fewer = replace(
            self,
            features=self.features.some(used),
            targets=self.targets[some],
            weights=self.weights[some],
            on_device=(),
        )
        return fewer._with_blocks_on_device()

    def solve(
        self, used: np.ndarray, strength: float, start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The layer (K present, D + 1) of least loss over some pictures (N,) bool."""
        shares = self._shares_of(used)
        layer = self.targets.new_zeros(self.targets.shape[1], self.features.shape[1] + 1)
        if start is not None:
            layer.copy_(start)
        optimizer = torch.optim.LBFGS(
            [layer], max_iter=STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            loss, layer.grad = self._loss_and_gradient(layer, shares)
            weight = layer[:, :-1]
            layer.grad[:, :-1] += strength * weight
            return loss + strength / 2 * weight.square().sum()

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return layer

    def loss(self, layer: torch.Tensor, used: np.ndarray) -> float:
        """The mean loss over some pictures (N,) bool."""
        loss, _ = self._loss_and_gradient(layer, self._shares_of(used))
        return float(loss)

    def logits(self, layer: torch.Tensor, used: np.ndarray) -> np.ndarray:
        """(n, K) what a layer that was solved says of some pictures (N,) bool."""
        weight, bias = self._for_features(layer)
        logits = np.full((len(used), len(self.present)), _ABSENT)
        for place, block in self._blocks():
            logits[place, self.present] = torch.addmm(bias, block, weight.T).cpu().numpy()
        there: np.ndarray = logits[used]
        return there

    def _loss_and_gradient(
        self, layer: torch.Tensor, shares: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the losses' shares, and its gradient (K present, D + 1)."""
        weight, bias = self._for_features(layer)
        along, sums = torch.zeros_like(weight), torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.float64, device=layer.device)
        for place, block in self._blocks():
            logits, targets = torch.addmm(bias, block, weight.T), self.targets[place]
            total += (losses(logits, targets, self.activation) * shares[place]).sum()
            found = logits.softmax(dim=1) if self.activation == "softmax" else logits.sigmoid()
            excess = (found - targets) * shares[place]
            along.addmm_(excess.T, block)
            sums += excess.sum(dim=0)
        of_weight = (along - torch.outer(sums, self._mean())) / self.scale
        return total.to(layer), torch.cat([of_weight, sums[:, None]], dim=1)

    def _for_features(self, layer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weight (K present, D) and bias of a solved layer for features as they are."""
        weight = layer[:, :-1] / self.scale
        return weight, layer[:, -1] - weight @ self._mean()

    def _mean(self) -> torch.Tensor:
        return torch.from_numpy(self.mean).to(self.weights)

    def _shares_of(self, used: np.ndarray) -> torch.Tensor:
        """The weights, so that those of all losses sum to one; of a picture not used, nothing."""
        weights = self.weights * torch.from_numpy(used).to(self.weights)[:, None]
        losses_each = self.targets.shape[1] if self.activation == "sigmoid" else 1
        return weights / (weights.sum() * (losses_each / weights.shape[1]))

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Places and features (n, D) float32; the tensor may be used again for the next ones."""
        if self.on_device:
            first = 0
            for block in self.on_device:
                yield slice(first, first + len(block)), block
                first += len(block)
            return
        buffer = torch.empty(ROWS_AT_ONCE, self.features.shape[1])
        for place, rows in self.features.blocks():
            yield place, buffer[: len(rows)].copy_(torch.from_numpy(rows))

    def _with_blocks_on_device(self) -> Problem:
        device = self.targets.device
        if device.type == "cpu":
            return self
        return replace(self, on_device=tuple(block.to(device) for _, block in self._blocks()))

    def layer(self, solved: torch.Tensor) -> Layer:
        """What was solved, for features as they are and all K classes."""
        solved_there = solved.cpu().numpy().astype(np.float64)
        weight = np.zeros((len(self.present), len(self.mean)))
        weight[self.present] = solved_there[:, :-1] / self.scale
        bias = np.full(len(self.present), _ABSENT)
        bias[self.present] = solved_there[:, -1]
        return Layer(weight, bias - weight @ self.mean)


def class_weights(targets: np.ndarray, activation: Activation, balanced: bool) -> np.ndarray:
    """How much the loss of each picture counts, (N, 1), or of each class in it, (N, K); mean 1.

    Balanced, each class counts as much as another (softmax), or a class's presence in all pictures
    together as much as its absence (sigmoid).

    Args:
        targets: (N, K) of 0 and 1, each class in one picture at least.
    """
    if not balanced:
        return np.ones((len(targets), 1), np.float32)
    count = targets.sum(axis=0)
    if activation == "softmax":
        weights = (targets / count).sum(axis=1, keepdims=True)
    else:
        absent = np.maximum(len(targets) - count, 1)
        weights = targets / count + (1 - targets) / absent
    scaled: np.ndarray = (weights / weights.mean()).astype(np.float32)
    return scaled


def losses(logits: torch.Tensor, targets: torch.Tensor, activation: Activation) -> torch.Tensor:
    """The cross-entropies of pictures (softmax), (N, 1), or of their classes (sigmoid), (N, K).

    Args:
        logits, targets: (N, K).
    """
    if activation == "softmax":
        return F.cross_entropy(logits, targets, reduction="none")[:, None]
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def centre(features: FeatureFile) -> tuple[np.ndarray, float]:
    """The mean (D,) float64, and what makes the mean variance one; of equal rows, 1."""
    count, width = features.shape
    mean, squares = np.zeros(width), 0.0
    for _, block in features.blocks():
        mean += block.sum(axis=0, dtype=np.float64) / count
    for _, block in features.blocks():
        squares += float(np.square(block - mean).sum())
    return mean, float(np.sqrt(squares / count / width)) or 1.0
