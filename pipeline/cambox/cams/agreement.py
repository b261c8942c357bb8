"""Which candidates are right: those that many looks agree on.

The class's probability says where the class is seen best, not how large the object is: a network is
as sure of a dog's head as of the dog. A box that looks of different sizes propose alike is right
more often than one that a single look is sure of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cambox.boxes import iou
from cambox.cams.looks import Array, Candidates, apart
from cambox.cams.pyramid import Level, log_probability, log_sum_exp
from cambox.cams.sums import integral, mean_in
from cambox.config_cam import AgreementSettings

# In pixels of the input, the side of a box that a level shows best: five cells of 32.
BEST_SEEN_AT = 160
RING, GROWN = 1.6, 1.5  # times the sides of a box
MOST_AHEAD = 5.0
POSTERIOR_POWER = 0.25
LEAST_VOTE = 1e-3
LEAST_AREA = 1e-4
BOX_OVERLAP, FUSED_OVERLAP = 0.4, 0.6
# A class has one object more often than two: of its further boxes each counts so much less.
LATER = float(np.exp(-0.5))
TRAITS = tuple(name for name in AgreementSettings.model_fields if name != "intercept")
"""What the score of a candidate is made of; their meaning is with the settings."""


@dataclass(frozen=True)
class Evidence:
    """What the levels say of n boxes of a class, each read at the level that shows it best.

    Attributes:
        log_posterior: (n,) of the class, by the mean of the logits in the box.
        grown: (n,) the same in the box with 1.5 times its sides.
        contrast: (n, 2) the mean of the class's logit in the cells of the box less that in the ring
            around it, out to 1.6 times its sides; and the same of the log of its probability.
        ahead: (n,) how far its logit in the box is ahead of the other classes', -5 to 5.
    """

    log_posterior: Array
    grown: Array
    contrast: Array
    ahead: Array


def evidence(
    levels: Sequence[Level],
    groups: Sequence[Sequence[int]],
    place: int,
    corners: Array,
    size: tuple[int, int],
) -> Evidence:
    """Ask each box's level about it.

    Args:
        levels: none of them mirrored.
        groups: of each class of the image the network's classes that it is.
        place: the class among those.
        corners: (n, 4), shares of the image.
        size: height and width of the image in pixels.
    """
    height, width = size
    area = _area(corners)
    shares = np.sqrt(area * width * height) / max(width, height)
    seen_at = shares[:, None] * np.array([level.side for level in levels]) / BEST_SEEN_AT
    best = np.abs(np.log(np.maximum(seen_at, 1e-6))).argmin(axis=1)
    count = len(corners)
    result = Evidence(np.zeros(count), np.zeros(count), np.zeros((count, 2)), np.zeros(count))
    for number, level in enumerate(levels):
        here = np.flatnonzero(best == number)
        if not len(here):
            continue
        boxes = corners[here]
        # The boxes and around each the wider one, asked about at once.
        logits, total = level.mean_in(np.concatenate([boxes, _grown(boxes, GROWN)]))
        own = log_sum_exp(logits[:, list(groups[place])])
        posterior = log_probability(own, total).numpy()
        result.log_posterior[here], result.grown[here] = np.split(posterior, 2)
        result.ahead[here] = MOST_AHEAD
        others = [
            log_sum_exp(logits[: len(here), list(members)])
            for other, members in enumerate(groups)
            if other != place
        ]
        if others:
            ahead = own[: len(here)] - torch.stack(others).amax(dim=0)
            result.ahead[here] = ahead.clamp(-MOST_AHEAD, MOST_AHEAD).numpy()
        result.contrast[here] = _contrast(torch.stack(level.group(groups[place]), dim=2), boxes)
    return result


def _contrast(maps: torch.Tensor, boxes: Array) -> Array:
    """(n, m) the mean of maps (h, w, m) in boxes less that in the rings around them."""
    around = _grown(boxes, RING)
    area, area_around = _area(boxes)[:, None], _area(around)[:, None]
    summed = integral(maps.numpy())
    inside, in_both = (mean_in(summed, some).astype(np.float64) for some in (boxes, around))
    ring_area = area_around - area
    ring = (in_both * area_around - inside * area) / np.maximum(ring_area, 1e-6)
    # Around what fills the image there is no ring to speak of.
    ring = np.where(ring_area < 0.02 * area, maps.mean(dim=(0, 1)).numpy(), ring)
    return np.asarray(inside - ring)


def traits(found: Candidates, seen: Evidence) -> Array:
    """(n, traits) of n candidates of a class, in the order of ``TRAITS``."""
    if not len(found.corners):
        return np.zeros((0, len(TRAITS)))
    overlaps = iou(
        found.corners[:, None].astype(np.float32), found.corners[None].astype(np.float32)
    )
    best = seen.log_posterior.max()
    likely = np.exp(POSTERIOR_POWER * (seen.log_posterior - best))
    log_area = np.log(np.maximum(_area(found.corners), LEAST_AREA))
    columns = {
        "log_area": log_area,
        "log_area_squared": log_area**2,
        "votes": votes(overlaps, found.look, np.ones(len(log_area))),
        "likely_votes": votes(overlaps, found.look, likely),
        "cut": found.cut,
        "best_posterior": np.full(len(log_area), best),
        "logit_contrast": seen.contrast[:, 0],
        "posterior_contrast": seen.contrast[:, 1],
        "ahead": seen.ahead,
        "narrowed": seen.log_posterior - seen.grown,
    }
    return np.stack([np.asarray(columns[name], np.float64) for name in TRAITS], axis=1)


def votes(overlaps: NDArray[np.floating], look: NDArray[np.int64], weights: Array) -> Array:
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
    strength = overlaps**2 * weights[:, None].astype(overlaps.dtype)
    starts = np.flatnonzero(np.diff(look, prepend=-1))
    best = np.maximum.reduceat(strength, starts, axis=0)
    return np.asarray(np.log(best.mean(axis=0, dtype=np.float64) + LEAST_VOTE))


def probability(settings: AgreementSettings, traits: Array) -> Array:
    """(n,) 1 / (1 + exp(-(intercept + sum of weight x trait))), 0 to 1, of traits (n, traits)."""
    weights = np.array([getattr(settings, name) for name in TRAITS])
    # A sum along each row, so that it does not depend on how many candidates there are.
    total = settings.intercept + (traits * weights).sum(axis=1)
    return np.asarray(1 / (1 + np.exp(-total)))


def choose(corners: Array, scores: Array, most: int) -> tuple[Array, Array]:
    """The best boxes that lie apart, each the mean of the candidates around it.

    A candidate with an IoU above ``FUSED_OVERLAP`` counts with its score times that IoU
    (weighted boxes fusion: Solovyev et al., Image and Vision Computing 2021).

    Returns:
        (k, 4) corners and (k,) scores, the best first, ``most`` of them at most; each further one
        counts ``LATER`` times less.
    """
    kept = apart(corners, scores, BOX_OVERLAP, most)
    overlaps = iou(corners[kept][:, None], corners[None])
    weights = scores * overlaps * (overlaps > FUSED_OVERLAP)
    fused = weights @ corners / weights.sum(axis=1, keepdims=True)
    return fused, scores[kept] * LATER ** np.arange(len(kept))


def _area(corners: Array) -> Array:
    return np.asarray((corners[:, 2:] - corners[:, :2]).prod(axis=1))


def _grown(corners: Array, factor: float) -> Array:
    """Boxes with so many times their sides, within the image."""
    middle, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
    return np.asarray(np.clip(np.hstack([middle - factor * half, middle + factor * half]), 0, 1))
