"""The unit of localisation: an image and one of the classes that it is known to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cambox.review.evaluate.sweep import THRESHOLDS
from cambox.review.overlap import best_overlaps, centre_box
from cambox.review.rows_with_truth import OK, JudgedImage

LARGE, SMALL = 0.5, 0.15


@dataclass(frozen=True)
class Pairs:
    """Pairs of an image and a class, side by side.

    Attributes:
        image: (p,) the image's place.
        class_id: (p,)
        labelled: (p,) bool, the class is a label of the sample; also where the row is not ok, so
            that what could not be read counts as missed.
        first: (p,) bool, the class is the best predicted one.
        overlap: (p,) the IoU of the class's component-0 box with a true box; 0 where there is none.
        centre: (p,) the same for the centred box; 0 where the image has no known size.
        true_boxes: (p,) their number.
        area: (p,) the largest true box, as a share of the image; NaN where its size is not known.
        swept: (p, 2, thresholds) what ``sweep`` gives; 0 where there is no map.
    """

    image: np.ndarray
    class_id: np.ndarray
    labelled: np.ndarray
    first: np.ndarray
    overlap: np.ndarray
    centre: np.ndarray
    true_boxes: np.ndarray
    area: np.ndarray
    swept: np.ndarray

    def only(self, chosen: np.ndarray) -> Pairs:
        """Some of the pairs; ``chosen`` is (p,) bool."""
        return Pairs(**{name: values[chosen] for name, values in vars(self).items()})

    def groups(self) -> dict[str, np.ndarray]:
        """(p,) bool each: by the area of the largest true box in the image's, and by how many."""
        return {
            f"area above {LARGE:.0%}": self.area > LARGE,
            f"area {SMALL:.0%} to {LARGE:.0%}": (self.area >= SMALL) & (self.area <= LARGE),
            f"area below {SMALL:.0%}": self.area < SMALL,
            "1 true box": self.true_boxes == 1,
            "2+ true boxes": self.true_boxes > 1,
        }


def pairs_of(images: Sequence[JudgedImage]) -> Pairs:
    """The pairs of all images, each image's classes in ascending order."""
    units = [
        (place, image, class_id)
        for place, image in enumerate(images)
        for class_id in sorted(image.true_boxes)
    ]
    swept = np.zeros((len(units), 2, len(THRESHOLDS)))
    for index, (_, image, class_id) in enumerate(units):
        if class_id in image.swept:
            swept[index] = image.swept[class_id]
    return Pairs(
        image=np.array([place for place, _, _ in units], dtype=np.int64),
        class_id=np.array([class_id for _, _, class_id in units], dtype=np.int64),
        labelled=np.array(
            [image.status != OK or class_id in image.labels for _, image, class_id in units],
            dtype=bool,
        ),
        first=np.array([image.first_class == class_id for _, image, class_id in units], dtype=bool),
        overlap=np.array([_overlap(image, class_id) for _, image, class_id in units]),
        centre=np.array([_centre_overlap(image, class_id) for _, image, class_id in units]),
        true_boxes=np.array(
            [len(image.true_boxes[class_id]) for _, image, class_id in units], dtype=np.int64
        ),
        area=np.array([_largest_area(image, class_id) for _, image, class_id in units]),
        swept=swept,
    )


def _overlap(image: JudgedImage, class_id: int) -> float:
    first = (image.found.class_id == class_id) & (image.found.component == 0)
    overlaps = best_overlaps(image.found.corners[first], image.true_boxes[class_id])
    return float(overlaps.max(initial=0.0))


def _centre_overlap(image: JudgedImage, class_id: int) -> float:
    # What could not be read is missed by the centred box as well: both face the same images.
    if image.size is None or image.status != OK:
        return 0.0
    height, width = image.size
    return float(best_overlaps(centre_box(width, height), image.true_boxes[class_id])[0])


def _largest_area(image: JudgedImage, class_id: int) -> float:
    if image.size is None:
        return float("nan")
    height, width = image.size
    boxes = image.true_boxes[class_id]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return float(areas.max()) / (height * width)
