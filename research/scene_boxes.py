"""Boxes for a scene from the agreement of many looks at it; nothing is run or trained here.

A look is one map of one size, or one window of it. Each gives boxes at several thresholds. A box
that many looks find alike is right more often than one that a single look is sure of: the class's
probability says where the class is seen best, not how large the object is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cambox.boxes import iou
from cambox.cams.boxes import find_boxes
from cambox.config import BoxSettings
from research.scene_pyramid import Level, doubled, group, mean_in, refined

Array = NDArray[np.float64]

# Shares of a map's range. Windows take all.
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
REFINED_THRESHOLDS, PLAIN_THRESHOLDS = THRESHOLDS[1:], THRESHOLDS[:-1]
# In pixels: the affinity of the whole grows with the fourth power of the side.
REFINED_UP_TO = 896
REGIONS_OF_WHOLE, REGIONS_OF_WINDOW = 4, 2
WINDOWS_OF_LEVEL, WINDOWS = 5, 12
FINER = 4  # Regions are found on a grid so many times finer than the map.
WINDOW_OVERLAP = BOX_OVERLAP = 0.4
FUSED_OVERLAP = 0.5
MOST_BOXES = 10
# In pixels of the input, the side of a box that a level shows best: five cells of 32.
BEST_SEEN_AT = 160
POSTERIOR_POWER = 0.25
LEAST_VOTE = 1e-3
WHOLE = np.array([0.0, 0.0, 1.0, 1.0])


@dataclass(frozen=True)
class Candidates:
    """The boxes of one class of an image, from all looks.

    Attributes:
        corners: (n, 4), shares of the image.
        look: (n,) int, the look that each is from, counted from 0 without gaps.
        cut: (n,) bool, at an edge of its window that is none of the image: perhaps cut off.
    """

    corners: Array
    look: NDArray[np.int64]
    cut: NDArray[np.bool_]


def looks(levels: Sequence[Level], members: Sequence[int]) -> Candidates:
    """The candidates of a class: regions of the maps of each level and of the best windows.

    Args:
        levels: the image's pyramid.
        members: the network's classes that are this class.

    Raises:
        ValueError: all maps are constant.
    """
    # Of each look its regions in its frame, and the frame.
    seen: list[tuple[Array, Array]] = []
    for level in levels:
        logit, log_posterior = group(level.logits, members)
        if level.side <= REFINED_UP_TO:
            both = torch.stack([logit, log_posterior.exp()])
            for score_map in refined(both, level.affinity):
                found = regions(score_map, REFINED_THRESHOLDS, REGIONS_OF_WHOLE)
                seen.append((found, WHOLE))
        seen.append((regions(doubled(logit), PLAIN_THRESHOLDS, REGIONS_OF_WHOLE), WHOLE))
    for level, cells in best_windows(levels, members):
        logit, _ = group(level.logits, members)
        found = regions(level.refined_window(logit, cells), THRESHOLDS, REGIONS_OF_WINDOW)
        seen.append((found, as_shares(cells, level.size)))
    seen = [(found, frame) for found, frame in seen if len(found)]
    if not seen:
        raise ValueError("expected a map that varies, all are constant")
    corners, cut = [], []
    for found, frame in seen:
        low, high = frame[:2], frame[2:]
        at_edge = np.hstack([(found[:, :2] <= 0) & (low > 0), (found[:, 2:] >= 1) & (high < 1)])
        cut.append(at_edge.any(axis=1))
        corners.append(np.tile(low, 2) + found * np.tile(high - low, 2))
    sizes = [len(found) for found, _ in seen]
    return Candidates(
        np.concatenate(corners), np.repeat(np.arange(len(seen)), sizes), np.concatenate(cut)
    )


def regions(score_map: NDArray[np.float32], thresholds: Sequence[float], most: int) -> Array:
    """(n, 4) extents, as shares of the map, of its largest regions above each threshold."""
    size = (FINER * score_map.shape[0], FINER * score_map.shape[1])
    found = []
    for threshold in thresholds:
        rule = BoxSettings(
            threshold=threshold,
            percentile=100,
            max_boxes=most,
            min_area=0,
            interpolation="bilinear",
        )
        found.append(find_boxes(score_map[None], size, rule).boxes.corners)
    return np.concatenate(found)


def best_windows(
    levels: Sequence[Level], members: Sequence[int]
) -> list[tuple[Level, NDArray[np.int64]]]:
    """The ``WINDOWS`` windows of all levels where the class is likeliest, few of them alike.

    Returns:
        The level of each and its cells (4,), the likeliest first.
    """
    found: list[tuple[float, Level, NDArray[np.int64]]] = []
    for level in levels:
        cells, logits = level.windows
        posterior = group(logits, members)[1].double().numpy()
        corners = as_shares(cells, level.size)
        best = apart(corners, posterior, WINDOW_OVERLAP, WINDOWS_OF_LEVEL)
        found += [(float(posterior[place]), level, cells[place]) for place in best]
    found.sort(key=lambda entry: -entry[0])
    return [(level, cells) for _, level, cells in found[:WINDOWS]]


def as_shares(cells: NDArray[np.int64], size: tuple[int, int]) -> Array:
    """Cells (..., 4) top, left, bottom, right as corners in shares of a grid's size."""
    height, width = size
    return np.asarray(cells[..., [1, 0, 3, 2]] / np.array([width, height, width, height]))


def apart(corners: Array, scores: Array, overlap: float, most: int) -> list[int]:
    """The places of the best boxes of which no two have an IoU of ``overlap`` or more."""
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        if (iou(corners[place], corners[kept]) < overlap).all():
            kept.append(place)
        if len(kept) == most:
            break
    return kept


def evidence(
    levels: Sequence[Level], members: Sequence[int], corners: Array, size: tuple[int, int]
) -> tuple[Array, Array]:
    """What the pyramid says of boxes, each read at the level at which it has the best size.

    Args:
        corners: (n, 4), shares of the image.
        size: height and width of the image in pixels.

    Returns:
        (n,) log of the class's probability by the box's mean logits; and (n,) the group's mean
        logit in the box less that in the ring around it, out to 1.6 times its sides.
    """
    height, width = size
    area = _area(corners)
    shares = np.sqrt(area * width * height) / max(width, height)
    seen_at = shares[:, None] * np.array([level.side for level in levels]) / BEST_SEEN_AT
    best = np.abs(np.log(np.maximum(seen_at, 1e-6))).argmin(axis=1)
    middle, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
    wider = np.clip(np.hstack([middle - 1.6 * half, middle + 1.6 * half]), 0, 1)
    ring_area = _area(wider) - area
    log_posterior, contrast = np.zeros(len(corners)), np.zeros(len(corners))
    for number, level in enumerate(levels):
        here = np.flatnonzero(best == number)
        log_posterior[here] = group(mean_in(level.logits, corners[here]), members)[1].numpy()
        logit = group(level.logits, members)[0][None]
        inside, all_in = (mean_in(logit, boxes[here])[0].numpy() for boxes in (corners, wider))
        ring = (all_in * (ring_area + area)[here] - inside * area[here]) / np.maximum(
            ring_area[here], 1e-6
        )
        # Around what fills the image there is no ring to speak of.
        ring = np.where(ring_area[here] < 0.02 * area[here], float(logit.mean()), ring)
        contrast[here] = inside - ring
    return log_posterior, contrast


def votes(overlaps: Array, look: NDArray[np.int64], weights: Array) -> Array:
    """How far the looks agree with each box.

    Each look votes by the candidate of its own that fits the box best:
    ``log(mean over looks of max over its candidates j of overlaps[i, j] ** 2 weights[j] + 0.001)``.

    Args:
        overlaps: (n, n) IoU of all pairs of candidates.
        look: (n,) see ``Candidates``.
        weights: (n,) of each candidate's vote, 0 to 1.

    Returns:
        (n,).
    """
    strength = overlaps**2 * weights
    best = [strength[:, look == number].max(axis=1) for number in range(int(look.max()) + 1)]
    return np.asarray(np.log(np.mean(best, axis=0) + LEAST_VOTE))


def agreement(candidates: Candidates, log_posterior: Array, contrast: Array) -> Array:
    """The traits of each candidate that a logistic regression tells right from wrong by.

    Returns:
        (n, 7): log of the area as a share of the image, its square, votes, votes weighed by the
        fourth root of the posterior over the best one's, cut (0 or 1), the pair's best log
        posterior, contrast.
    """
    corners = candidates.corners
    overlaps = iou(corners[:, None], corners[None])
    best = log_posterior.max()
    likely = np.exp(POSTERIOR_POWER * (log_posterior - best))
    log_area = np.log(np.maximum(_area(corners), 1e-4))
    return np.stack(
        [
            log_area,
            log_area**2,
            votes(overlaps, candidates.look, np.ones(len(corners))),
            votes(overlaps, candidates.look, likely),
            candidates.cut.astype(np.float64),
            np.full(len(corners), best),
            contrast,
        ],
        axis=1,
    )


def choose(corners: Array, scores: Array) -> tuple[Array, Array]:
    """The best boxes that lie apart, each the mean of the candidates around it.

    A candidate with an IoU above ``FUSED_OVERLAP`` counts with its score times that IoU.

    Returns:
        (k, 4) corners and (k,) scores, the best first, ``MOST_BOXES`` at most.
    """
    kept = apart(corners, scores, BOX_OVERLAP, MOST_BOXES)
    overlaps = iou(corners[kept][:, None], corners[None])
    weights = scores * overlaps * (overlaps > FUSED_OVERLAP)
    return weights @ corners / weights.sum(axis=1, keepdims=True), scores[kept]


def _area(corners: Array) -> Array:
    return np.asarray((corners[:, 2:] - corners[:, :2]).prod(axis=1))
