"""The boxes of stored maps under some settings, each beside the true boxes of its class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from pipeline.boxing import Boxing
from pipeline.cams import BoxTraits, PseudoBox, upsample
from pipeline.config import BoxSettings
from pipeline.review.overlap import best_overlaps
from pipeline.review.tune.images import PassImages, TuneImage


@dataclass(frozen=True, slots=True)
class FoundBox:
    """A box of one map.

    Attributes:
        image: its place.
        corners: pixels.
        overlap: the best IoU with a true box of its class; 0 where there is none.
    """

    image: int
    class_id: int
    rank: int
    class_score: float
    box: PseudoBox
    corners: tuple[float, float, float, float]
    overlap: float

    @property
    def traits(self) -> BoxTraits:
        """What its score is made of."""
        return BoxTraits.of(self.box, self.class_score, self.rank == 0)


def find_boxes(
    images: PassImages,
    ranks: Callable[[int], bool],
    settings: Sequence[BoxSettings],
    pool: Executor,
    on_image: Callable[[], None] | None = None,
) -> list[list[FoundBox]]:
    """The boxes under each of the settings, image by image, whatever their score.

    Args:
        ranks: of the maps to look at.
        pool: threads.
    """

    def of_image(place: int) -> list[list[FoundBox]]:
        found = _of_image(place, images.images[place], images.input_size, ranks, settings)
        if on_image is not None:
            on_image()
        return found

    parts = list(pool.map(of_image, range(len(images.images))))
    return [[box for part in parts for box in part[index]] for index in range(len(settings))]


def _of_image(
    place: int,
    image: TuneImage,
    input_size: tuple[int, int],
    ranks: Callable[[int], bool],
    settings: Sequence[BoxSettings],
) -> list[list[FoundBox]]:
    found: list[list[FoundBox]] = [[] for _ in settings]
    if image.size is None:
        return found
    height, width = image.size
    ways = [Boxing.of(wanted, input_size) for wanted in settings]
    for class_map in image.maps:
        if not ranks(class_map.rank):
            continue
        stored = class_map.stored.restore()

        @cache
        def finer(
            size: tuple[int, int], interpolation: str, stored: np.ndarray = stored
        ) -> torch.Tensor:
            # Once: to resize a map to the size that it has changes nothing.
            return torch.from_numpy(upsample(stored, size, interpolation))  # type: ignore[arg-type]

        true_boxes = image.true_boxes.get(class_map.class_id, np.zeros((0, 4)))
        of_settings = [
            boxing.boxes(finer(boxing.size, boxing.rule.interpolation)).boxes for boxing in ways
        ]
        flat = [box for boxes in of_settings for box in boxes]
        shares = [(box.x_min, box.y_min, box.x_max, box.y_max) for box in flat]
        corners = np.array(shares).reshape(-1, 4) * [width, height, width, height]
        known = zip(flat, corners.tolist(), best_overlaps(corners, true_boxes), strict=True)
        for index, boxes in enumerate(of_settings):
            for _ in boxes:
                box, sides, overlap = next(known)
                found[index].append(
                    FoundBox(
                        image=place,
                        class_id=class_map.class_id,
                        rank=class_map.rank,
                        class_score=class_map.class_score,
                        box=box,
                        corners=tuple(sides),
                        overlap=float(overlap),
                    )
                )
    return found
