"""The boxes of stored maps under some settings, and the true boxes of their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cambox.boxes import Boxes, best_overlaps, place_in_group
from cambox.cams.boxes import find_boxes, upsampled_size
from cambox.cams.score import MapClasses, choose_boxes
from cambox.config import BoxSettings
from cambox.in_order import grouped, in_order, usable_cpus
from cambox.review.rows_with_truth import RowWithTruth, numbered
from cambox.review.truth_formats import UNKNOWN_CLASS

IMAGES_AT_ONCE = 16

Ranks = Callable[[np.ndarray], np.ndarray]
"""From ranks (n,), 0 for a given label, to (n,) bool: which are looked at."""


@dataclass(frozen=True)
class MappedImages:
    """Images with true boxes and stored maps, in the order of their keys.

    Attributes:
        input_size: (height, width) of the network's input.
        true: in pixels, ``image`` being the place of their image, ascending by image and class;
            without those of no known class.
    """

    rows: tuple[RowWithTruth, ...]
    input_size: tuple[int, int]
    true: Boxes

    @classmethod
    def of(cls, rows: Iterable[RowWithTruth], input_size: tuple[int, int]) -> MappedImages:
        """From rows that were read with their maps."""
        by_key = tuple(sorted(rows, key=lambda row: row.key))
        true = numbered(row.true_boxes for row in by_key)
        return cls(by_key, input_size, true[true.class_id != UNKNOWN_CLASS])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pair_starts(self) -> np.ndarray:
        """(p,) the place, among the true boxes, of the first one of each (image, class) pair."""
        return np.flatnonzero(place_in_group(self.true.image, self.true.class_id) == 0)

    def in_pixels(self, boxes: Boxes) -> Boxes:
        """Boxes of these images with corners in pixels instead of shares."""
        sizes = np.array([row.size or (0, 0) for row in self.rows]).reshape(-1, 2)
        height, width = sizes[boxes.image].T
        return boxes.scaled(width, height)

    def overlaps(self, boxes: Boxes) -> np.ndarray:
        """(n,) the best IoU of each box, in shares, with a true one of its image and class."""
        return best_overlaps(self.in_pixels(boxes), self.true)

    def boxes(
        self,
        settings: Sequence[BoxSettings],
        ranks: Ranks | None = None,
        on_image: Callable[[int], None] | None = None,
    ) -> list[Boxes]:
        """The boxes of the maps under each of the settings, whatever their score.

        A calibration and a least score among the settings do not count.

        Args:
            ranks: of the maps to look at; None: all.
            on_image: called with the number of images, after each.

        Returns:
            For each of the settings boxes ascending by image, corners as shares, whose score is
            the mean of the map; class_score is NaN where a row does not tell it.
        """
        plain = [one.model_copy(update={"calibration": None, "min_score": 0.0}) for one in settings]
        found: list[list[Boxes]] = [[] for _ in settings]
        cpus = usable_cpus()
        groups = list(grouped(range(len(self)), IMAGES_AT_ONCE))
        with ThreadPoolExecutor(cpus) as pool:
            done = in_order(pool, lambda group: self._found(group, plain, ranks), groups, 2 * cpus)
            for group, of_group in zip(groups, done, strict=True):
                for every, mine in zip(found, of_group, strict=True):
                    every.append(mine)
                if on_image is not None:
                    for _ in group:
                        on_image(len(self))
        return [Boxes.joined(parts) for parts in found]

    def _found(
        self, images: Sequence[int], settings: Sequence[BoxSettings], ranks: Ranks | None
    ) -> list[Boxes]:
        stored = [one for place in images for one in self.rows[place].maps]
        counts = [len(self.rows[place].maps) for place in images]
        classes = MapClasses(
            image=np.repeat(np.array(images), counts),
            class_id=np.array([one.class_id for one in stored], np.int64),
            rank=np.array([one.rank for one in stored], np.int64),
            score=np.array([one for place in images for one in self.rows[place].class_scores]),
        )
        looked_at = np.ones(len(stored), bool) if ranks is None else ranks(classes.rank)
        # Boxes of better classes may suppress those of the ones that are looked at.
        suppressed = any(one.suppress_overlap is not None for one in settings)
        used = np.arange(len(stored)) if suppressed else np.flatnonzero(looked_at)
        if not looked_at.any():
            return [Boxes.of(()) for _ in settings]
        # All maps of a recipe are of one shape.
        maps = np.stack([stored[place].restore() for place in used])
        of_used = MapClasses(*(values[used] for values in vars(classes).values()))
        result = []
        for one in settings:
            found = find_boxes(maps, upsampled_size(one, self.input_size), one)
            chosen = choose_boxes(found, of_used, one)
            result.append(chosen.boxes[looked_at[used][chosen.of_map]])
        return result
