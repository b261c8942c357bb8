"""The boxes of stored maps under some settings, each beside the true boxes of its class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cambox.boxing import Boxing
from cambox.cams import (
    BoxTraits,
    MapBoxes,
    PseudoBox,
    without_overlapping_classes,
)
from cambox.config import BoxSettings
from cambox.review.overlap import best_overlaps
from cambox.review.tune.images import ClassMap, PassImages, TuneImage


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
    on_image: Callable[[], None] | None = None,
) -> list[list[FoundBox]]:
    """The boxes under each of the settings, image by image, whatever their score.

    Args:
        ranks: of the maps to look at.
    """
    found: list[list[FoundBox]] = [[] for _ in settings]
    for place, image in enumerate(images.images):
        of_image = _of_image(place, image, images.input_size, ranks, settings)
        for every, mine in zip(found, of_image, strict=True):
            every += mine
        if on_image is not None:
            on_image()
    return found


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
    ways = [Boxing.of(wanted, input_size) for wanted in settings]
    looked_at = [place for place, one in enumerate(image.maps) if ranks(one.rank)]
    maps = [image.maps[place] for place in looked_at]
    if looked_at and any(boxing.suppress_overlap is not None for boxing in ways):
        # Boxes of better classes may suppress those of the ones that are looked at.
        maps = list(image.maps[: looked_at[-1] + 1])
    of_maps = [_of_map(class_map, ways) for class_map in maps]
    for index, boxing in enumerate(ways):
        boxes = [of_map[index] for of_map in of_maps]
        if boxing.suppress_overlap is not None:
            boxes = without_overlapping_classes(boxes, boxing.suppress_overlap)
        for class_map, kept in zip(maps, boxes, strict=True):
            if ranks(class_map.rank):
                found[index] += _beside_truth(place, image, image.size, class_map, kept)
    return found


def _of_map(class_map: ClassMap, ways: Sequence[Boxing]) -> list[MapBoxes]:
    """The boxes of one map under each of the settings."""
    stored = torch.from_numpy(class_map.stored.restore())[None]
    return [boxing.boxes(stored)[0] for boxing in ways]


def _beside_truth(
    place: int, image: TuneImage, size: tuple[int, int], class_map: ClassMap, found: MapBoxes
) -> list[FoundBox]:
    height, width = size
    shares = [(box.x_min, box.y_min, box.x_max, box.y_max) for box in found.boxes]
    corners = np.array(shares).reshape(-1, 4) * [width, height, width, height]
    true_boxes = image.true_boxes.get(class_map.class_id, np.zeros((0, 4)))
    return [
        FoundBox(
            image=place,
            class_id=class_map.class_id,
            rank=class_map.rank,
            class_score=class_map.class_score,
            box=box,
            corners=tuple(sides),
            overlap=float(overlap),
        )
        for box, sides, overlap in zip(
            found.boxes, corners.tolist(), best_overlaps(corners, true_boxes), strict=True
        )
    ]
