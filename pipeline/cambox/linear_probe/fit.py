"""A probe: how strongly its layer is regularised, and its probabilities, on pictures held out."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch

from cambox.linear_probe.examples import FOLDS, Activation, Examples
from cambox.linear_probe.feature_file import FeatureFile
from cambox.linear_probe.layer import STEPS, Layer, Problem, losses

STRENGTHS = tuple(10.0**power for power in (0, -0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4))
# Enough to tell the strengths apart; all pictures are used with the one that is chosen.
MOST_TO_CHOOSE_BY = 20_000
# Numbers below which threads cost more than they bring, and much more beside other work.
_WORTH_THREADS = 1 << 22


@dataclass(frozen=True)
class Calibration:
    """What turns logits into ones that probabilities can be read from: ``z / temperature + shift``.

    Bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar, ICML 2020): the shift
    takes back what weighing the classes has done to their frequencies.
    """

    temperature: float
    shift: np.ndarray

    def of_layer(self, layer: Layer) -> Layer:
        """The layer, whose logits are calibrated."""
        scale = 1 / self.temperature
        return Layer(layer.weight * scale, layer.bias * scale + self.shift)

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
    problem = Problem.of(examples, balanced, device)
    with ExitStack() as afterwards:
        if math.prod(problem.features.shape) < _WORTH_THREADS:
            afterwards.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        return _fit(examples, problem, on_fit)


def _fit(examples: Examples, problem: Problem, on_fit: Callable[[int], None]) -> Fit:
    fits = len(STRENGTHS) + FOLDS + 1
    some = np.zeros(len(examples.fold), bool)
    some[np.linspace(0, len(some) - 1, MOST_TO_CHOOSE_BY).astype(np.int64)] = True
    # The largest part: of few pictures one may be empty.
    largest = np.bincount(examples.fold[some]).argmax()
    fewer = problem if some.all() else problem.of_pictures(some)
    held = examples.fold[some] == largest
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
        away = away_from_borders(examples, examples.borders, strength, problem.targets.device)
        whole = Layer(whole.weight + away, whole.bias)
    on_fit(fits)
    return Fit(calibration.of_layer(whole), strength, tuple(tried), calibration, held_out)


def away_from_borders(
    examples: Examples, borders: FeatureFile, strength: float, device: torch.device
) -> np.ndarray:
    """(D,) what to add to the weights of all classes, so that maps tell objects from surroundings.

    A softmax does not say which: the same vector added to all its classes changes no probability,
    and every map. Left alone, a map is the evidence for its class against the mean of the others,
    which is noise where none of them is. Pictures are aimed at their objects, so what their
    borders show is made a class of its own, in a fit beside, and the maps are against it.
    """
    count, _ = borders.shape
    targets = np.zeros((2 * count, examples.targets.shape[1] + 1), np.float32)
    targets[:count, :-1] = examples.targets
    targets[count:, -1] = 1
    both = replace(examples, features=examples.features.and_after(borders), targets=targets)
    problem = Problem.of(both, True, device)
    layer = problem.layer(problem.solve(np.ones(2 * count, bool), strength))
    away: np.ndarray = -layer.weight[-1]
    return away


def calibrate(logits: np.ndarray, targets: np.ndarray, activation: Activation) -> Calibration:
    """The temperature and shift of least loss over held-out logits (N, K).

    A shift is held near 0 by as much as one picture counts, so that a class that was never held
    out stays as it is.
    """
    z, t = torch.from_numpy(logits), torch.from_numpy(targets).to(torch.float64)
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_scale, shift], max_iter=STEPS, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = losses(z * log_scale.exp() + shift, t, activation).mean()
        loss = loss + shift.square().sum() / (2 * len(z))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Calibration(float((-log_scale.detach()).exp()), shift.detach().numpy())
