"""The boxes that stored maps give under other settings than their recipe's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cambox.boxes import Boxes, best_overlaps
from cambox.config import BoxSettings
from cambox.review.rows_with_truth import RowWithTruth, numbered
from cambox.review.truth_formats import UNKNOWN_CLASS
from cambox.threads import grouped, in_order, usable_cpus

IMAGES_AT_ONCE = 16

Ranks = Callable[[np.ndarray], np.ndarray]
"""From ranks (n,), 0 for a given label, to (n,) bool: which are looked at."""


@dataclass(frozen=True)
class MappedImages:
    """Images with true boxes and stored maps; boxes of them have their place as ``image``.

    Attributes:
        rows: that were read with their maps, all of one recipe.
        input_size: (height, width) of its network's input.
    """

    rows: tuple[RowWithTruth, ...]
    input_size: tuple[int, int]

    def by_key(self) -> MappedImages:
        """In the order of their keys, without the true boxes of no known class."""
        known = [
            replace(row, true_boxes=row.true_boxes[row.true_boxes.class_id != UNKNOWN_CLASS])
            for row in sorted(self.rows, key=lambda row: row.key)
        ]
        return MappedImages(tuple(known), self.input_size)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def true_boxes(self) -> Boxes:
        """In pixels, ascending by image and class."""
        return numbered(row.true_boxes for row in self.rows)

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([row.size or (0, 0) for row in self.rows]).reshape(-1, 2)

    def in_pixels(self, boxes: Boxes) -> Boxes:
        """Boxes of these images with corners in pixels instead of shares."""
        height, width = self._sizes[boxes.image].T
        return boxes.scaled(width, height)

    def overlaps(self, boxes: Boxes) -> np.ndarray:
        """(n,) the best IoU of each box, in shares, with a true one of its image and class."""
        return best_overlaps(self.in_pixels(boxes), self.true_boxes)

    def boxes(
        self,
        settings: Sequence[BoxSettings],
        ranks: Ranks | None = None,
        on_image: Callable[[int], None] | None = None,
    ) -> list[Boxes]:
        """The boxes of all images; see ``boxes_in_parts``."""
        parts = [boxes for _, boxes in self.boxes_in_parts(settings, ranks, on_image)]
        return [Boxes.joined(of_one) for of_one in zip(*parts, strict=True)]

    def boxes_in_parts(
        self,
        settings: Sequence[BoxSettings],
        ranks: Ranks | None = None,
        on_image: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[list[int], list[Boxes]]]:
        """The boxes of the maps under each of the settings, whatever their score.

        A calibration and a least score among the settings do not count.

        Args:
            ranks: of the maps to look at; None: all.
            on_image: called with the number of images, after each.

        Yields:
            Some images, in turn, and for each of the settings their boxes, ascending by image,
            corners as shares, whose score is the mean of the map; class_score is NaN where a row
            does not tell it.
        """
        plain = [one.model_copy(update={"calibration": None, "min_score": 0.0}) for one in settings]
        cpus = usable_cpus()
        groups = list(grouped(range(len(self)), IMAGES_AT_ONCE))
        with ThreadPoolExecutor(cpus) as pool:
            done = in_order(pool, lambda group: self._found(group, plain, ranks), groups, 2 * cpus)
            for group, found in zip(groups, done, strict=True):
                yield group, found
                if on_image is not None:
                    for _ in group:
                        on_image(len(self))

    def _found(
        self, images: Sequence[int], settings: Sequence[BoxSettings], ranks: Ranks | None
    ) -> list[Boxes]:
        # They need a compiler, which whoever stores no maps need not wait for.
        from cambox.cams.boxes import find_boxes, upsampled_size
        from cambox.cams.score import MapClasses, choose_boxes

        rows = [self.rows[place] for place in images]
        stored = [one for row in rows for one in row.maps]
        rank = np.array([one.rank for one in stored], np.int64)
        looked_at = np.ones(len(stored), bool) if ranks is None else ranks(rank)
        if not looked_at.any():
            return [Boxes.of(()) for _ in settings]
        # Boxes of better classes may suppress those of the ones that are looked at.
        suppressed = any(one.suppress_overlap is not None for one in settings)
        used = np.arange(len(stored)) if suppressed else np.flatnonzero(looked_at)
        classes = MapClasses(
            image=np.repeat(images, [len(row.maps) for row in rows])[used],
            class_id=np.array([one.class_id for one in stored], np.int64)[used],
            rank=rank[used],
            score=np.array([score for row in rows for score in row.class_scores])[used],
        )
        maps = np.stack([stored[place].restore() for place in used])
        result = []
        for one in settings:
            found = find_boxes(maps, upsampled_size(one, self.input_size), one)
            chosen = choose_boxes(found, classes, one)
            result.append(chosen.boxes[looked_at[used][chosen.of_map]])
        return result
