"""A linear layer on features, regularised.

Features are centred, and all divided by one number that makes their mean variance one; both are
part of the layer in the end. (Each divided by its own spread, weak channels would weigh as much as
strong ones: a worse held-out loss.) The loss is the mean cross-entropy (softmax) or the mean over
the classes' binary ones (sigmoid), each picture weighed by its class, plus ``strength / 2`` times
the sum of squared weights. It is convex: the same pictures in the same order give the same layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from cambox.linear_probe.examples import Activation, Examples

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
    """The pictures as tensors.

    Attributes:
        inputs: (N, D + 1) float32, features less their ``mean``, over ``scale``, and a one.
        present: (K,) bool, the classes that pictures are of; only these are trained.
        weights: (N, 1) or (N, K present) float32, how much each loss counts.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    present: np.ndarray
    mean: np.ndarray
    scale: float
    activation: Activation

    @classmethod
    def of(cls, examples: Examples, balanced: bool, device: torch.device) -> Problem:
        features = examples.features
        inputs = np.ones((len(features), features.shape[1] + 1), np.float32)
        inputs[:, :-1] = features
        mean = inputs[:, :-1].mean(axis=0, dtype=np.float64)
        # One column after another: of all at once numpy makes a copy in float64.
        spreads = [column.var(dtype=np.float64) for column in inputs[:, :-1].T]
        scale = float(np.sqrt(np.mean(spreads))) or 1.0
        inputs[:, :-1] -= mean.astype(np.float32)
        inputs[:, :-1] /= np.float32(scale)
        present = examples.counts > 0
        targets = examples.targets[:, present]
        weights = class_weights(targets, examples.activation, balanced)
        return cls(
            torch.from_numpy(inputs).to(device),
            torch.from_numpy(targets).to(device),
            torch.from_numpy(weights).to(device),
            present,
            mean,
            scale,
            examples.activation,
        )

    def of_pictures(self, places: np.ndarray) -> Problem:
        """The same with the pictures at some places."""
        some = torch.from_numpy(places).to(self.inputs.device)
        return replace(
            self,
            inputs=self.inputs[some],
            targets=self.targets[some],
            weights=self.weights[some],
        )

    def solve(
        self, used: np.ndarray, strength: float, start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The layer (K present, D + 1) of least loss over some pictures (N,) bool."""
        # What is not used weighs nothing: a copy of the rest would cost as much memory again.
        weights = self._weights_of(used)
        layer = self.inputs.new_zeros(self.targets.shape[1], self.inputs.shape[1])
        if start is not None:
            layer.copy_(start)
        layer.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [layer], max_iter=STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = mean_loss(self.inputs @ layer.T, self.targets, weights, self.activation)
            loss = loss + strength / 2 * layer[:, :-1].square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return layer.detach()

    @torch.inference_mode()
    def loss(self, layer: torch.Tensor, used: np.ndarray) -> float:
        """The mean loss over some pictures (N,) bool."""
        logits, weights = self.inputs @ layer.T, self._weights_of(used)
        return float(mean_loss(logits, self.targets, weights, self.activation))

    def logits(self, layer: torch.Tensor, used: np.ndarray) -> np.ndarray:
        """(n, K) what a layer that was solved says of some pictures (N,) bool."""
        there = self.inputs[torch.from_numpy(used).to(self.inputs.device)] @ layer.T
        logits = np.full((len(there), len(self.present)), _ABSENT)
        logits[:, self.present] = there.cpu().numpy()
        return logits

    def _weights_of(self, used: np.ndarray) -> torch.Tensor:
        return self.weights * torch.from_numpy(used).to(self.weights)[:, None]

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


def mean_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, activation: Activation
) -> torch.Tensor:
    """The weighted mean of the cross-entropies, of pictures (softmax) or their classes (sigmoid).

    Args:
        logits, targets: (N, K).
        weights: see ``class_weights``; a picture that is left out has 0.
    """
    if activation == "softmax":
        losses = F.cross_entropy(logits, targets, reduction="none")[:, None]
    else:
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.expand_as(losses).sum()
