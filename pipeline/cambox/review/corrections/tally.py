"""What became of pseudo boxes under people's eyes, by class and by score."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

from cambox.boxes import Boxes, iou, pairs_by_overlap

SAME_OBJECT = 0.5
# What formats round, and a hand that takes hold of a box, moves no side further.
UNMOVED_PIXELS = 1.0
SCORE_BINS = 10
OUTCOMES = ("kept", "moved", "class_changed", "removed", "added")


@dataclass
class Tally:
    """Counts of ``OUTCOMES``: of pseudo boxes, and of boxes that were added.

    Attributes:
        by_class: by the name of the pseudo box's class; of an added box its own.
        by_score: by the tenth of box_score that a pseudo box lies in, from 0.
    """

    by_class: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    by_score: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def total(self) -> Counter[str]:
        """Of all classes."""
        return sum(self.by_class.values(), Counter())

    def add(self, pseudo: Boxes, names: list[str], left: Boxes, left_names: list[str]) -> None:
        """Count the boxes of one image.

        Args:
            pseudo, left: in its pixels, before and after; classes that are not known are -1.
            names, left_names: of their classes.
        """
        outcomes, added = outcomes_of(pseudo, left)
        bins = np.minimum((pseudo.score * SCORE_BINS).astype(int), SCORE_BINS - 1).tolist()
        for name, bin_, outcome in zip(names, bins, outcomes, strict=True):
            self.by_class[name][outcome] += 1
            self.by_score[bin_][outcome] += 1
        for place in added:
            self.by_class[left_names[place]]["added"] += 1


def outcomes_of(pseudo: Boxes, left: Boxes) -> tuple[list[str], list[int]]:
    """What became of each pseudo box of an image, and which of the boxes after it are new.

    Pairs of one class come first, the largest IoU first, then pairs of any classes; each has an
    IoU of at least ``SAME_OBJECT``.
    """
    outcomes = ["removed"] * len(pseudo)
    new = set(range(len(left)))
    for before, after, overlap in zip(*pairs_by_overlap(pseudo, left), strict=True):
        if overlap >= SAME_OBJECT:
            shift = np.abs(pseudo.corners[before] - left.corners[after]).max()
            outcomes[before] = "kept" if shift <= UNMOVED_PIXELS else "moved"
            new.discard(int(after))
    others = np.array([place for place, what in enumerate(outcomes) if what == "removed"], int)
    rest = np.array(sorted(new), int)
    overlaps = iou(pseudo.corners[others][:, None], left.corners[rest][None])
    while overlaps.size and overlaps.max() >= SAME_OBJECT:
        before, after = np.unravel_index(overlaps.argmax(), overlaps.shape)
        outcomes[others[before]] = "class_changed"
        new.discard(int(rest[after]))
        overlaps[before, :] = overlaps[:, after] = 0
    return outcomes, sorted(new)
