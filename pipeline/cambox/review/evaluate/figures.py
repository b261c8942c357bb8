"""The field's figures of localisation, and how far each could lie elsewhere.

The figures take ``weights`` (d, images), how often each image counts, so that the same code gives a
figure and its resamples (``Bootstrap``): with ``d`` sets of weights there are ``d`` results. They
are of p pairs of an image and a class: ``image`` and ``class_id`` (p,), ``hits`` (p, m) bool.

Sources: CorLoc, Deselaers et al., IJCV 2012; GT-known and Top-1 localisation, Zhou et al., CVPR
2016; MaxBoxAcc and MaxBoxAccV2, Choe et al., CVPR 2020 and arXiv:2007.04178 (wsolevaluation).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cambox.review.evaluate.report import Comparison, Estimate

IOUS = (0.3, 0.5, 0.7)
MAIN_IOU = IOUS.index(0.5)
CONFIDENCE = 0.95
_MOST_WEIGHTS = 5_000_000

Statistic = Callable[..., np.ndarray]
"""From weights (d, images), how often each image counts, and more, to (d,) or (d, m) figures."""


def hits_at(overlap: np.ndarray) -> np.ndarray:
    """(..., 3) bool: whether overlaps (...) reach each of ``IOUS``."""
    return overlap[..., None] >= np.array(IOUS)


def share(weights: np.ndarray, image: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """(d, ...) the share of pairs that are hit, 0 to 1; NaN where no pair has a weight.

    Args:
        hits: (p, ...) bool, or shares.
    """
    of_pair = weights[:, image]
    hit = of_pair @ hits.reshape(len(hits), math.prod(hits.shape[1:]))
    return ratio(hit, of_pair.sum(axis=1)[:, None]).reshape(len(weights), *hits.shape[1:])


def share_of_images(weights: np.ndarray, image: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """As ``share``, of images: one is hit if one of its pairs is (at most one may be)."""
    return ratio(weights[:, image] @ hits, weights[:, np.unique(image)].sum(axis=1)[:, None])


def corloc(
    weights: np.ndarray, image: np.ndarray, class_id: np.ndarray, hits: np.ndarray
) -> np.ndarray:
    """(d, m) the share of each class's images with a hit, averaged over the classes; p from 1."""
    order = np.argsort(class_id, kind="stable")
    _, starts = np.unique(class_id[order], return_index=True)
    of_pair = weights[:, image[order]]
    counts = np.add.reduceat(of_pair, starts, axis=1)
    found = np.add.reduceat(of_pair[:, :, None] * hits[order], starts, axis=1)
    return mean_over_classes(ratio(found, counts[:, :, None]))


def mean_over_classes(figures: np.ndarray) -> np.ndarray:
    """(d, m) the mean over the second axis of (d, classes, m), without the NaN."""
    defined = np.isfinite(figures)
    return ratio(np.where(defined, figures, 0).sum(axis=1), defined.sum(axis=1))


def best_share(
    weights: np.ndarray, image: np.ndarray, hits: np.ndarray, part: np.ndarray | None = None
) -> np.ndarray:
    """(d, m) the share of hits at the threshold that is best over the whole set (MaxBoxAcc).

    The threshold is chosen on the images it is judged on, and again for each set of weights; of
    equals it is the lowest.

    Args:
        hits: (p, thresholds, m) bool.
        part: (p,) bool: the share among these pairs; the threshold is that of all.
    """
    shares = share(weights, image, hits)
    best = shares.argmax(axis=1)[:, None]
    if part is not None:
        shares = share(weights, image[part], hits[part])
    return np.take_along_axis(shares, best, axis=1)[:, 0]


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element by element; NaN where the denominator, which may be broadcast, is 0."""
    denominator = np.broadcast_to(denominator, numerator.shape)
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


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

    def draw(self, statistic: Statistic, *arguments: object) -> np.ndarray:
        """(1 + draws, m) a statistic of the images as they are, and then of each resample.

        NaN where there is nothing to measure.

        Args:
            arguments: what the statistic takes after the weights.
        """
        generator = np.random.default_rng(self.seed)
        at_once = max(1, _MOST_WEIGHTS // self.images)
        parts = [statistic(np.ones((1, self.images)), *arguments)]
        for start in range(0, self.draws, at_once):
            count = min(at_once, self.draws - start)
            chosen = generator.integers(self.images, size=(count, self.images))
            chosen += self.images * np.arange(count)[:, None]
            weights = np.bincount(chosen.ravel(), minlength=count * self.images)
            weights = weights.reshape(count, self.images).astype(np.float64)
            parts.append(statistic(weights, *arguments))
        return np.concatenate([part.reshape(len(part), -1) for part in parts])


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """The interval that holds 95 % of the draws, moved to the figure; NaN without any draw.

    Some figures are higher in resamples than in the images drawn from: AP averaged over classes
    that a resample may lack, ECE, a share at the best threshold. The percentiles alone could then
    miss the figure itself, so the draws are shifted until their mean is the figure; a plain share
    is not changed by that.

    Args:
        drawn: (1 + draws,) as ``Bootstrap.draw`` gives it.
    """
    defined = drawn[1:][np.isfinite(drawn[1:])]
    if len(defined) == 0:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) + (drawn[0] - defined.mean())
    return float(low), float(high)


def estimate(drawn: np.ndarray) -> Estimate:
    """A share, 0 to 1, with its interval, for the report."""
    low, high = np.clip(interval(drawn), 0, 1).tolist()
    return Estimate(value=float(drawn[0]), low=low, high=high)


def difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """By how much the first figure is the larger one, -1 to 1; resample by resample."""
    low, high = interval(first - second)
    return Estimate(value=float(first[0] - second[0]), low=low, high=high)


def comparison(output: np.ndarray, centre: np.ndarray) -> Comparison:
    """A figure beside the centred box's."""
    return Comparison(
        output=estimate(output), centre_box=estimate(centre), gain=difference(output, centre)
    )
