"""A linear layer on features: regularised, its strength and its probabilities held out.

Features are centred, and all divided by one number that makes their mean variance one; both are
part of the layer in the end. (Each divided by its own spread, weak channels would weigh as much as
strong ones: a worse held-out loss.) The loss is the mean cross-entropy (softmax) or the mean over
the classes' binary ones (sigmoid), each picture weighed by its class, plus ``strength / 2`` times
the sum of squared weights. It is convex: the same pictures in the same order give the same layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from cambox.linear_probe.examples import FOLDS, Activation, Examples

STRENGTHS = tuple(10.0**power for power in (0, -0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4))
# Enough to tell the strengths apart; all pictures are used with the one that is chosen.
MOST_TO_CHOOSE_BY = 20_000
_STEPS = 300
# The logit of a class that no picture is of: it is never predicted.
_ABSENT = -20.0
# Numbers below which threads cost more than they bring, and much more beside other work.
_WORTH_THREADS = 1 << 22


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

    def calibrated(self, calibration: Calibration) -> Layer:
        """The layer, whose logits are calibrated."""
        scale = 1 / calibration.temperature
        return Layer(self.weight * scale, self.bias * scale + calibration.shift)


@dataclass(frozen=True)
class Calibration:
    """What turns logits into ones that probabilities can be read from: ``z / temperature + shift``.

    Bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar, ICML 2020): the shift
    takes back what weighing the classes has done to their frequencies.
    """

    temperature: float
    shift: np.ndarray

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """(N, K) of logits (N, K)."""
        calibrated: np.ndarray = logits / self.temperature + self.shift
        return calibrated


@dataclass(frozen=True)
class Fit:
    """A probe.

    Attributes:
        layer: trained on all pictures, calibrated.
        strength: of the regularisation, that was chosen.
        tried: (strength, held-out loss) of each.
        calibration: that is part of the layer.
        held_out: (N, K) logits of each picture by a layer and a calibration that did not see it.
    """

    layer: Layer
    strength: float
    tried: tuple[tuple[float, float], ...]
    calibration: Calibration
    held_out: np.ndarray


def fit_probe(
    examples: Examples,
    balanced: bool,
    device: torch.device,
    on_fit: Callable[[int], None] = lambda fits: None,
) -> Fit:
    """Choose the strength, train on all pictures, and calibrate.

    Args:
        balanced: whether pictures of a rare class count for more.
        device: that computes.
        on_fit: called with the number of fits in all, after each.
    """
    fits = len(STRENGTHS) + FOLDS + 1
    problem = _Problem.of(examples, balanced, device)
    if problem.inputs.numel() < _WORTH_THREADS:
        torch.set_num_threads(1)
    some = np.unique(np.linspace(0, len(examples.fold) - 1, MOST_TO_CHOOSE_BY).astype(np.int64))
    fewer, held = problem.of_pictures(some), examples.fold[some] == 0
    tried = []
    layer: torch.Tensor | None = None
    for strength in STRENGTHS:  # each begins where the stronger one ended
        layer = fewer.solve(~held, strength, layer)
        tried.append((strength, fewer.loss(layer, held)))
        on_fit(fits)
    strength = min(tried, key=lambda one: one[1])[0]
    logits = np.zeros(examples.targets.shape)
    for fold in range(FOLDS):
        mine = examples.fold == fold
        if mine.any():
            logits[mine] = problem.logits(problem.solve(~mine, strength), mine)
        on_fit(fits)
    held_out = np.zeros_like(logits)
    for fold in range(FOLDS):
        mine = examples.fold == fold
        if mine.any():
            of_others = calibrate(logits[~mine], examples.targets[~mine], examples.activation)
            held_out[mine] = of_others.apply(logits[mine])
    calibration = calibrate(logits, examples.targets, examples.activation)
    whole = problem.layer(problem.solve(np.ones(len(examples.fold), bool), strength))
    if examples.activation == "softmax" and examples.borders is not None:
        away = away_from_borders(examples, examples.borders, strength, device)
        whole = Layer(whole.weight + away, whole.bias)
    on_fit(fits)
    return Fit(whole.calibrated(calibration), strength, tuple(tried), calibration, held_out)


def away_from_borders(
    examples: Examples, borders: np.ndarray, strength: float, device: torch.device
) -> np.ndarray:
    """(D,) what to add to the weights of all classes, so that maps tell objects from surroundings.

    A softmax does not say which: the same vector added to all its classes changes no probability,
    and every map. Left alone, a map is the evidence for its class against the mean of the others,
    which is noise where none of them is. Pictures are aimed at their objects, so what their
    borders show is made a class of its own, in a fit beside, and the maps are against it.
    """
    count = len(borders)
    targets = np.zeros((2 * count, examples.targets.shape[1] + 1), np.float32)
    targets[:count, :-1] = examples.targets
    targets[count:, -1] = 1
    both = replace(examples, features=np.concatenate([examples.features, borders]), targets=targets)
    problem = _Problem.of(both, True, device)
    layer = problem.layer(problem.solve(np.ones(2 * count, bool), strength))
    away: np.ndarray = -layer.weight[-1]
    return away


@dataclass(frozen=True)
class _Problem:
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
    def of(cls, examples: Examples, balanced: bool, device: torch.device) -> _Problem:
        features = examples.features
        inputs = np.ones((len(features), features.shape[1] + 1), np.float32)
        inputs[:, :-1] = features
        mean = inputs[:, :-1].mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(inputs[:, :-1].var(axis=0, dtype=np.float64).mean())) or 1.0
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

    def of_pictures(self, places: np.ndarray) -> _Problem:
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
            [layer], max_iter=_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = _mean_loss(self.inputs @ layer.T, self.targets, weights, self.activation)
            loss = loss + strength / 2 * layer[:, :-1].square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return layer.detach()

    @torch.inference_mode()
    def loss(self, layer: torch.Tensor, used: np.ndarray) -> float:
        """The mean loss over some pictures (N,) bool."""
        logits, weights = self.inputs @ layer.T, self._weights_of(used)
        return float(_mean_loss(logits, self.targets, weights, self.activation))

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


def calibrate(logits: np.ndarray, targets: np.ndarray, activation: Activation) -> Calibration:
    """The temperature and shift of least loss over held-out logits (N, K).

    A shift is held near 0 by as much as one picture counts, so that a class that was never held
    out stays as it is.
    """
    z, t = torch.from_numpy(logits), torch.from_numpy(targets).to(torch.float64)
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(len(z), 1, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [log_scale, shift], max_iter=_STEPS, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = _mean_loss(z * log_scale.exp() + shift, t, ones, activation)
        loss = loss + shift.square().sum() / (2 * len(z))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Calibration(float((-log_scale.detach()).exp()), shift.detach().numpy())


def _mean_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, activation: Activation
) -> torch.Tensor:
    if activation == "softmax":
        losses = F.cross_entropy(logits, targets, reduction="none")[:, None]
    else:
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.expand_as(losses).sum()
