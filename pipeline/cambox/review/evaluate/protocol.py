"""The field's figures of localisation: arrays in, numbers out.

The figures take weights, how often each image counts, so that the same code gives a figure and
its resamples (``bootstrap``). With ``d`` sets of weights there are ``d`` results.

Sources: CorLoc, Deselaers et al., IJCV 2012; GT-known and Top-1 localisation, Zhou et al., CVPR
2016; MaxBoxAcc and MaxBoxAccV2, Choe et al., CVPR 2020 and arXiv:2007.04178 (wsolevaluation).
"""

from __future__ import annotations

import numpy as np

IOUS = (0.3, 0.5, 0.7)


def hits_at(overlap: np.ndarray) -> np.ndarray:
    """(..., 3) bool: whether overlaps (...) reach each of ``IOUS``."""
    return overlap[..., None] >= np.array(IOUS)


def share(weights: np.ndarray, image: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """The share of pairs that are hit.

    Args:
        weights: (d, images).
        image: (p,) the image of each pair.
        hits: (p, m) bool.

    Returns:
        (d, m) 0 to 1; NaN where no pair has a weight.
    """
    of_pair = weights[:, image]
    return ratio(of_pair @ hits, of_pair.sum(axis=1)[:, None])


def share_of_images(weights: np.ndarray, image: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """As ``share``, of images: one is hit if one of its pairs is (at most one may be)."""
    return ratio(weights[:, image] @ hits, weights[:, np.unique(image)].sum(axis=1)[:, None])


def corloc(
    weights: np.ndarray, image: np.ndarray, class_id: np.ndarray, hits: np.ndarray
) -> np.ndarray:
    """(d, m) the share of each class's images with a hit, averaged over the classes.

    Args:
        weights: (d, images).
        image, class_id: (p,) of each pair, p from 1.
        hits: (p, m) bool.
    """
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


def best_threshold(image: np.ndarray, hits: np.ndarray, images: int) -> np.ndarray:
    """(m,) the index of the threshold that hits most over the whole set; the lowest of equals.

    Args:
        image: (p,) of each pair.
        hits: (p, thresholds, m) bool.
        images: how many there are.
    """
    best: np.ndarray = _shares(np.ones((1, images)), image, hits)[0].argmax(axis=0)
    return best


def best_share(
    weights: np.ndarray, image: np.ndarray, hits: np.ndarray, part: np.ndarray | None = None
) -> np.ndarray:
    """(d, m) the share of hits at the threshold that is best over the whole set (MaxBoxAcc).

    The threshold is chosen on the images it is judged on, and again for each set of weights.

    Args:
        weights: (d, images).
        image: (p,) of each pair.
        hits: (p, thresholds, m) bool.
        part: (p,) bool: the share among these pairs; the threshold is that of all.
    """
    shares = _shares(weights, image, hits)
    best = shares.argmax(axis=1)[:, None]
    if part is not None:
        shares = _shares(weights, image[part], hits[part])
    return np.take_along_axis(shares, best, axis=1)[:, 0]


def _shares(weights: np.ndarray, image: np.ndarray, hits: np.ndarray) -> np.ndarray:
    flat = share(weights, image, hits.reshape(len(hits), hits.shape[1] * hits.shape[2]))
    return flat.reshape(len(weights), *hits.shape[1:])


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element by element; NaN where the denominator, which may be broadcast, is 0."""
    denominator = np.broadcast_to(denominator, numerator.shape)
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
