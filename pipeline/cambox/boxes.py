"""The one shape of boxes: arrays side by side, from the map they come from to the Parquet file.

What makes, reads, compares, exports or draws boxes takes and gives this. It knows no file, no
network and no tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

CENTRE_BOX_SIDE = 0.8
# Less than rounding, as a share of the image's side.
AT_EDGE = 1e-6

# Of each column but the corners: its type, and what it is where nobody says.
_COLUMNS: dict[str, tuple[type, float]] = {
    "image": (np.int64, 0),
    "class_id": (np.int64, -1),
    "rank": (np.int64, 0),
    "component": (np.int64, 0),
    "class_score": (np.float64, 0.0),
    "score": (np.float64, 0.0),
    "outside": (np.float64, 0.0),
    "touches_edge": (np.bool_, False),
}


@dataclass(frozen=True)
class Boxes:
    """n boxes, half-open: 0 <= x_min < x_max <= width. ``Boxes.of`` fills what is not given.

    >>> boxes = Boxes.of([[10, 20, 30, 60], [0, 0, 5, 5]], score=[0.9, 0.2])
    >>> len(boxes), boxes[boxes.score > 0.5].corners.tolist()
    (2, [[10.0, 20.0, 30.0, 60.0]])

    Attributes:
        corners: (n, 4) float64, x_min, y_min, x_max, y_max: pixels of the upright image, or, before
            its size comes in, shares of its width and height (0 to 1).
        image: (n,) int64, the number of the image, or row, or map, that each is of.
        class_id: (n,) int64; -1 where no class is known.
        rank: (n,) int64, of the class among the predicted ones, from 1; 0 for a given label.
        component: (n,) int64, from 0 within its map; 0 is the one that the recipe holds best.
        class_score: (n,) float64, the class's probability, 0 to 1.
        score: (n,) float64, ``box_score``, 0 to 1: the mean of the normalised map inside the box,
            or what a calibration makes of it.
        outside: (n,) float64, the mean of the normalised map outside the box, 0 to 1.
        touches_edge: (n,) bool, whether the box reaches the image's border.
    """

    corners: np.ndarray
    image: np.ndarray
    class_id: np.ndarray
    rank: np.ndarray
    component: np.ndarray
    class_score: np.ndarray
    score: np.ndarray
    outside: np.ndarray
    touches_edge: np.ndarray

    @classmethod
    def of(cls, corners: Any, **columns: Any) -> Boxes:
        """Boxes from whatever numpy takes; a column may be one number for all of them.

        Raises:
            ValueError: the corners are not (n, 4), or a column is not (n,).
        """
        sides = np.asarray(corners, np.float64)
        sides = sides.reshape(-1, 4) if sides.size == 0 else sides
        if sides.ndim != 2 or sides.shape[1] != 4:
            raise ValueError(f"expected corners of shape (n, 4), got {sides.shape}")
        made = {}
        for name, (kind, default) in _COLUMNS.items():
            values: np.ndarray = np.asarray(columns.pop(name, default), kind)
            values = np.full(len(sides), values, kind) if values.ndim == 0 else values
            if values.shape != (len(sides),):
                raise ValueError(f"expected {name} of shape ({len(sides)},), got {values.shape}")
            made[name] = values
        if columns:
            raise TypeError(f"boxes have no {', '.join(columns)}")
        return cls(sides, **made)

    @classmethod
    def joined(cls, parts: Iterable[Boxes]) -> Boxes:
        """All boxes of all parts, in their order."""
        columns = [vars(part) for part in (cls.of(()), *parts)]
        return cls(*(np.concatenate([one[field.name] for one in columns]) for field in fields(cls)))

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, chosen: np.ndarray | slice) -> Boxes:
        """Some of the boxes: a slice, places, or (n,) bool."""
        return Boxes(*(values[chosen] for values in vars(self).values()))

    def with_columns(self, **columns: np.ndarray) -> Boxes:
        """The same boxes with other columns (n,) or corners (n, 4)."""
        return replace(self, **columns)

    def scaled(self, width: Any, height: Any) -> Boxes:
        """Corners times width and height, numbers or (n,) each: from shares to pixels, or back."""
        factors = np.stack(np.broadcast_arrays(width, height, width, height), axis=-1)
        return self.with_columns(corners=self.corners * factors)

    @property
    def sides(self) -> np.ndarray:
        """(n, 2) width and height."""
        sides: np.ndarray = self.corners[:, 2:] - self.corners[:, :2]
        return sides

    @property
    def area(self) -> np.ndarray:
        """(n,) width x height."""
        area: np.ndarray = self.sides.prod(axis=1)
        return area


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union, 0 to 1, in the type of the corners.

    Boxes are half-open, so there is no +1 in their sizes (as in COCO and torchvision, and not as in
    the code of wsolevaluation, which counts each box one pixel longer).

    >>> iou(np.array([0.0, 0, 2, 2]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [0.333, 0.0]

    Args:
        first, second: (..., 4), which are broadcast: ``iou(a[:, None], b[None])`` is all pairs.
    """
    # Side by side, as numpy is slow along an axis of two.
    sides = []
    for low, high in ((0, 2), (1, 3)):
        begin = np.maximum(first[..., low], second[..., low])
        end = np.minimum(first[..., high], second[..., high])
        sides.append(np.maximum(end - begin, 0))
    common = sides[0] * sides[1]
    areas = [
        (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        for boxes in (first, second)
    ]
    union = areas[0] + areas[1] - common
    overlap: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlap


def best_overlaps(boxes: Boxes, others: Boxes) -> np.ndarray:
    """(n,) the IoU of each box with the one of its own image and class that it overlaps most.

    0 where there is none.
    """
    return best_matches(boxes, others)[1]


def best_matches(boxes: Boxes, others: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """The one of its own image and class that each box overlaps most, the first of equal ones.

    Returns:
        (n,) places in ``others``, -1 where none is of its image and class, and (n,) IoUs, 0 there.
    """
    mine, other = _of_one_image_and_class(boxes, others)
    overlap = iou(boxes.corners[mine], others.corners[other])
    # From the worst to the best, so that the last one written is the best.
    order = np.lexsort((-other, overlap))
    place, best = np.full(len(boxes), -1), np.zeros(len(boxes))
    place[mine[order]] = other[order]
    best[mine[order]] = overlap[order]
    return place, best


def at_edge(corners: np.ndarray) -> np.ndarray:
    """(n,) bool, whether boxes (n, 4), in shares of the image's sides, reach its border."""
    reached = np.hstack([corners[:, :2] <= AT_EDGE, corners[:, 2:] >= 1 - AT_EDGE])
    return np.asarray(reached.any(axis=1))


def centre_box(width: float, height: float) -> np.ndarray:
    """(1, 4) the box in the middle with 0.8 of the image's width and height, in pixels.

    What every figure is compared with: photographs are aimed at their objects.
    """
    margin = (1 - CENTRE_BOX_SIDE) / 2
    return np.array(
        [[width * margin, height * margin, width * (1 - margin), height * (1 - margin)]]
    )


def pairs_by_overlap(first: Boxes, second: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which box of one set is which of the other: of one image and class, the largest IoU first.

    Greedy; between pairs of equal IoU the one that comes first in the sets is taken.

    Returns:
        (m,) places in ``first``, (m,) places in ``second``, and (m,) IoUs above 0; each box is in
        one pair at most.
    """
    mine, other = _of_one_image_and_class(first, second)
    overlap = iou(first.corners[mine], second.corners[other])
    order = np.lexsort((other, mine, -overlap))
    order = order[overlap[order] > 0]
    taken_first: set[int] = set()
    taken_second: set[int] = set()
    pairs = []
    for at, one, two in zip(
        order.tolist(), mine[order].tolist(), other[order].tolist(), strict=True
    ):
        if one not in taken_first and two not in taken_second:
            taken_first.add(one)
            taken_second.add(two)
            pairs.append(at)
    kept = np.array(pairs, np.int64)
    return mine[kept], other[kept], overlap[kept]


def _of_one_image_and_class(first: Boxes, second: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """The places of all pairs of one image and class."""
    key, other_key = ((boxes.image << 32) + boxes.class_id for boxes in (first, second))
    order = np.argsort(other_key, kind="stable")
    start = np.searchsorted(other_key[order], key, side="left")
    count = np.searchsorted(other_key[order], key, side="right") - start
    mine = np.repeat(np.arange(len(key)), count)
    within = np.arange(len(mine)) - np.repeat(np.cumsum(count) - count, count)
    return mine, order[np.repeat(start, count) + within]


def place_in_group(*keys: np.ndarray) -> np.ndarray:
    """(n,) the place, from 0, of each entry in its run of equal keys (n,)."""
    places = np.arange(len(keys[0]))
    starts = np.zeros(len(places), bool)
    starts[:1] = True
    for key in keys:
        starts[1:] |= key[1:] != key[:-1]
    place: np.ndarray = places - np.maximum.accumulate(np.where(starts, places, 0))
    return place
