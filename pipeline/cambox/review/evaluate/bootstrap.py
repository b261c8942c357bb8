"""How far a figure could lie elsewhere, had other images of the same kind been drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
"""From weights (draws, images), how often each image counts, to (draws,) or (draws, m) figures."""

CONFIDENCE = 0.95
_MOST_WEIGHTS = 5_000_000


@dataclass(frozen=True)
class Drawn:
    """A figure of the images as they are, and of each resample.

    Attributes:
        value: NaN where it is not defined.
        draws: (draws,) NaN where a resample has nothing to measure.
    """

    value: float
    draws: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """The interval that holds 95 % of the draws, moved to the figure; NaN without any draw.

        Some figures are higher in resamples than in the images drawn from: AP averaged over
        classes that a resample may lack, ECE, a share at the best threshold. The percentiles
        alone could then miss the figure itself, so the draws are shifted until their mean is the
        figure; a plain share is not changed by that.
        """
        defined = self.draws[np.isfinite(self.draws)]
        if len(defined) == 0:
            return float("nan"), float("nan")
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(defined, [tail, 1 - tail]) + (self.value - defined.mean())
        return float(low), float(high)

    def __sub__(self, other: Drawn) -> Drawn:
        """The difference, draw by draw: both figures come from the same resamples."""
        return Drawn(self.value - other.value, self.draws - other.draws)


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of images, with replacement; the same ones for every figure.

    Images and not boxes are drawn, because boxes of one image stand or fall together.

    Attributes:
        images: how many there are, from 1.
        draws: resamples, from 1.
        seed: the same seed gives the same intervals.
    """

    images: int
    draws: int = 1000
    seed: int = 0

    def draw(self, statistic: Statistic) -> list[Drawn]:
        """The figures of a statistic; one for each of its columns."""
        value = _columns(statistic(np.ones((1, self.images))))[0]
        generator = np.random.default_rng(self.seed)
        at_once = max(1, _MOST_WEIGHTS // self.images)
        parts = []
        for start in range(0, self.draws, at_once):
            count = min(at_once, self.draws - start)
            parts.append(_columns(statistic(self._weights(generator, count))))
        draws = np.concatenate(parts)
        return [Drawn(float(value[index]), draws[:, index]) for index in range(len(value))]

    def _weights(self, generator: np.random.Generator, count: int) -> np.ndarray:
        chosen = generator.integers(self.images, size=(count, self.images))
        chosen += self.images * np.arange(count)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=count * self.images)
        return weights.reshape(count, self.images).astype(np.float64)


def _columns(figures: np.ndarray) -> np.ndarray:
    return figures.reshape(len(figures), -1)
