"""Which settings are best, judged on images that had no part in choosing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cambox.review.tune.objective import Figure


@dataclass(frozen=True)
class Folds:
    """The images in groups of nearly one size, drawn at random.

    Attributes:
        of_image: (images,) the fold of each, from 0.
        count: of folds, from 2.
    """

    of_image: np.ndarray
    count: int

    @classmethod
    def draw(cls, images: int, count: int, seed: int) -> Folds:
        """The same seed gives the same folds."""
        return cls(np.random.default_rng(seed).permutation(images) % count, count)

    def others(self, fold: int) -> np.ndarray:
        """(1, images) weights: 1 for the images outside a fold, which its settings come from."""
        weights: np.ndarray = (self.of_image != fold).astype(np.float64)[None, :]
        return weights

    def only(self, fold: int) -> np.ndarray:
        """(1, images) weights: 1 for the images of a fold."""
        return 1 - self.others(fold)


def best(figures: Sequence[Figure], weights: np.ndarray) -> int:
    """The place of the highest figure; of equals the first, so that what is given stays.

    Args:
        weights: (1, images).
    """
    values = [float(figure(weights)[0, 0]) for figure in figures]
    # NaN where there is nothing to measure.
    return int(np.argmax(np.nan_to_num(values, nan=-1.0)))


def best_of_folds(figures: Sequence[Figure], folds: Folds) -> list[int]:
    """For each fold the best over all the other images."""
    return [best(figures, folds.others(fold)) for fold in range(folds.count)]
