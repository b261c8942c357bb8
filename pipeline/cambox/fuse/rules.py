"""The boxes of two outputs as one set: box arithmetic, image by image and class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cambox.boxes import Boxes, best_matches, best_overlaps, pairs_by_overlap, place_in_group
from cambox.fuse import Rule

# What a box without any score counts, so that there is a mean of several such.
LEAST_SCORE = 1e-9


def combine(
    first: Boxes, second: Boxes, rule: Rule, overlap: float, weights: tuple[float, float]
) -> Boxes:
    """The boxes that a rule makes of two sets, in pixels, those of each image together.

    ``fuse`` is ``weighted_fusion``. ``agree`` keeps what both have: pairs of one image and class,
    the largest IoU first, each box in one pair at most, fused. ``union`` is the first set and, of
    the second, what no box of the first is the same as. ``replace`` is the second set, and the
    first for images and classes that the second has no box of.

    Args:
        overlap: IoU from which two boxes of one image and class are the same, above 0, to 1.
        weights: above 0, what the scores of each set count in ``fuse`` and ``agree``.

    Returns:
        By image, rank, class and ``component``, which counts anew: the box comes first that an
        output holds best (not its box_score: of a map it is the largest component), then by score;
        in ``union`` A's come before B's.
    """
    match rule:
        case Rule.fuse:
            made = weighted_fusion((first, second), weights, overlap)
        case Rule.agree:
            made = _in_both(first, second, weights, overlap)
        case Rule.union:
            new = second[best_overlaps(second, first) < overlap]
            behind = first.component.max(initial=-1) + 1
            made = Boxes.joined((first, new.with_columns(component=behind + new.component)))
        case Rule.replace:
            stays = best_matches(first, second)[0] < 0
            made = Boxes.joined((first[stays], second))
    within = (*made.corners.T, -made.score, made.component)
    made = made[np.lexsort((*within, made.class_id, made.rank, made.image))]
    return made.with_columns(component=place_in_group(made.image, made.rank, made.class_id))


def weighted_fusion(sets: Sequence[Boxes], weights: Sequence[float], overlap: float) -> Boxes:
    """Weighted boxes fusion (Solovyev et al., Image and Vision Computing 2021).

    The best box first, each joins the fused box of its image and class that it overlaps most, or
    becomes one of its own. A fused box is the mean of its members, weighed by score times weight;
    its score is their mean, weighed by weight, times the share of the weights whose sets have a
    member: of two equal sets, a box that one alone has counts half.

    >>> one = Boxes.of([[0, 0, 10, 10]], score=0.6)
    >>> other = Boxes.of([[0, 0, 10, 8], [50, 50, 60, 60]], score=[0.2, 0.4])
    >>> fused = weighted_fusion((one, other), (1, 1), 0.5)
    >>> fused.corners.round(6).tolist(), fused.score.round(6).tolist()
    ([[0.0, 0.0, 10.0, 9.5], [50.0, 50.0, 60.0, 60.0]], [0.4, 0.2])

    Args:
        weights: of each set, above 0.
        overlap: IoU from which a box joins another, 0 to 1.

    Returns:
        By image and class; ``component`` is the lowest of the members', the other columns are those
        of the member that counts most.
    """
    boxes = Boxes.joined(sets)
    of_set = np.repeat(np.arange(len(sets)), list(map(len, sets)))
    strength = _strength(boxes, of_set, weights)
    # Equal ones by their corners, so that the result is the same in whatever order boxes come.
    order = np.lexsort((*boxes.corners.T, -strength, boxes.class_id, boxes.image))
    boxes, of_set, strength = boxes[order], of_set[order], strength[order]
    turn = place_in_group(boxes.image, boxes.class_id)
    founder = np.arange(len(boxes))
    total, summed = strength.copy(), strength[:, None] * boxes.corners
    # All images and classes at once: in each turn every one of them has one box to place.
    for now in range(1, turn.max(initial=0) + 1):
        here = np.flatnonzero(turn == now)
        before = np.flatnonzero((founder == np.arange(len(boxes))) & (turn < now))
        fused = boxes[before].with_columns(corners=summed[before] / total[before, None])
        place, best = best_matches(boxes[here], fused)
        joins = (place >= 0) & (best >= overlap)
        member, into = here[joins], before[place[joins]]
        founder[member] = into
        total[into] += strength[member]
        summed[into] += strength[member, None] * boxes.corners[member]
    return _merged(boxes, of_set, np.unique(founder, return_inverse=True)[1], weights)


def _in_both(first: Boxes, second: Boxes, weights: Sequence[float], overlap: float) -> Boxes:
    mine, other, best = pairs_by_overlap(first, second)
    same = best >= overlap
    pairs = Boxes.joined((first[mine[same]], second[other[same]]))
    of_set, pair = np.divmod(np.arange(len(pairs)), max(1, int(same.sum())))
    return _merged(pairs, of_set, pair, weights)


def _strength(boxes: Boxes, of_set: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """(n,) what each counts in a mean of corners."""
    strength: np.ndarray = np.maximum(boxes.score, LEAST_SCORE) * np.asarray(weights)[of_set]
    return strength


def _merged(
    boxes: Boxes, of_set: np.ndarray, cluster: np.ndarray, weights: Sequence[float]
) -> Boxes:
    """One box of each cluster (n,), which are counted from 0."""
    count = cluster.max(initial=-1) + 1
    strength, weight = _strength(boxes, of_set, weights), np.asarray(weights, np.float64)

    def total(values: np.ndarray) -> np.ndarray:
        sums: np.ndarray = np.bincount(cluster, values, count)
        return sums

    summed = np.stack([total(strength * side) for side in boxes.corners.T], axis=1)
    corners = summed / total(strength)[:, None]
    # A mean lies between its members; rounding must not carry it out of the image.
    low, high = np.full((count, 4), np.inf), np.full((count, 4), -np.inf)
    np.minimum.at(low, cluster, boxes.corners)
    np.maximum.at(high, cluster, boxes.corners)
    component = np.full(count, boxes.component.max(initial=0))
    np.minimum.at(component, cluster, boxes.component)
    has = np.zeros((count, len(weight)), bool)
    has[cluster, of_set] = True
    score = total(weight[of_set] * boxes.score) / total(weight[of_set])
    first_of = np.lexsort((-strength, cluster))
    first_of = first_of[place_in_group(cluster[first_of]) == 0]
    return boxes[first_of].with_columns(
        corners=np.clip(corners, low, high),
        score=score * (has @ weight) / weight.sum(),
        component=component,
    )
