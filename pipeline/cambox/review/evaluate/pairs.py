"""The unit of localisation: an image and one of the classes that it is known to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cambox.boxes import Boxes, best_overlaps, centre_box, place_in_group
from cambox.config import BoxSettings
from cambox.in_order import grouped, in_order, usable_cpus
from cambox.review.rows_with_truth import OK, RowWithTruth, numbered

LARGE, SMALL = 0.5, 0.15
THRESHOLDS = np.arange(50) / 50
MAPS_AT_ONCE = 16
_NO_LIMIT = 2**31


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


@dataclass(frozen=True)
class Sweep:
    """How stored maps become boxes at each threshold.

    Attributes:
        settings: of the recipe; threshold, min_area and max_boxes do not count.
        input_size: (height, width) of the network's input.
        on_map: called with the number of maps, after each.
    """

    settings: BoxSettings
    input_size: tuple[int, int]
    on_map: Callable[[int], None] | None = None


def pairs_of(rows: Sequence[RowWithTruth], sweep_by: Sweep | None = None) -> Pairs:
    """The pairs of all images, each image's classes in ascending order.

    Args:
        sweep_by: for the maps of given labels; None: leave them alone.
    """
    true = numbered(row.true_boxes for row in rows)
    begins = place_in_group(true.image, true.class_id) == 0
    starts = np.flatnonzero(begins)
    image, class_id = true.image[starts], true.class_id[starts]
    of_pair = list(zip([rows[place] for place in image], class_id.tolist(), strict=True))
    found = numbered(row.boxes for row in rows)
    overlap = best_overlaps(true, found[found.component == 0])
    centre = best_overlaps(true, centre_boxes(rows, image, class_id))
    pixels = np.array([np.prod(row.size) if row.size else np.nan for row, _ in of_pair])
    return Pairs(
        image=image,
        class_id=class_id,
        labelled=np.array(
            [row.status != OK or label in row.labels for row, label in of_pair], bool
        ),
        first=np.array([row.first_class == label for row, label in of_pair], bool),
        overlap=np.maximum.reduceat(overlap, starts),
        centre=np.maximum.reduceat(centre, starts),
        true_boxes=np.diff(starts, append=len(true)),
        area=np.maximum.reduceat(true.area, starts) / pixels,
        swept=_swept(of_pair, true, np.cumsum(begins) - 1, sweep_by),
    )


def centre_boxes(rows: Sequence[RowWithTruth], image: np.ndarray, class_id: np.ndarray) -> Boxes:
    """A centred box, score 1, for each of these images (n,) and classes (n,).

    What could not be read has none: the centred box misses it as well, so that both face the same
    images.
    """
    sizes = [row.size if row.status == OK else None for row in rows]
    boxes = [
        Boxes.of(centre_box(size[1], size[0]), image=place, class_id=label, score=1.0)
        for place, label in zip(image.tolist(), class_id.tolist(), strict=True)
        if (size := sizes[place]) is not None
    ]
    return Boxes.joined(boxes)


def _swept(
    of_pair: Sequence[tuple[RowWithTruth, int]],
    true: Boxes,
    pair_of_true: np.ndarray,
    sweep_by: Sweep | None,
) -> np.ndarray:
    result = np.zeros((len(of_pair), 2, len(THRESHOLDS)))
    maps = {
        pair: stored
        for pair, (row, label) in enumerate(of_pair)
        for stored in row.maps
        if stored.rank == 0 and stored.class_id == label
    }
    if sweep_by is None or not maps:
        return result
    by = sweep_by

    def swept(pairs: list[int]) -> tuple[list[int], np.ndarray]:
        mine = np.isin(pair_of_true, pairs)
        map_of_true = np.searchsorted(pairs, pair_of_true[mine])
        return pairs, sweep(
            np.stack([maps[pair].restore() for pair in pairs]),
            true[mine].with_columns(image=map_of_true),
            np.array([of_pair[pair][0].size for pair in pairs]),
            by,
        )

    cpus = usable_cpus()
    with ThreadPoolExecutor(cpus) as pool:
        groups = grouped(maps, MAPS_AT_ONCE)
        for pairs, overlaps in in_order(pool, swept, groups, ahead=2 * cpus):
            result[pairs] = overlaps
            if by.on_map is not None:
                for _ in pairs:
                    by.on_map(len(maps))
    return result


def sweep(maps: np.ndarray, true: Boxes, sizes: np.ndarray, by: Sweep) -> np.ndarray:
    """How well the boxes of maps fit at many thresholds, for figures that choose the best one.

    Args:
        maps: (m, h, w).
        true: in pixels, ``image`` being the number of their map.
        sizes: (m, 2) height and width of the upright images.

    Returns:
        (m, 2, thresholds) the best IoU with a true box, 0 to 1: of the largest component's box,
        and of any component's. 0 where there is no box.
    """
    # It needs a compiler, which whoever stores no maps need not wait for.
    from cambox.cams.boxes import find_boxes, upsampled_size

    best = np.zeros((len(maps), 2, len(THRESHOLDS)))
    true = true.with_columns(class_id=np.full(len(true), -1))
    for place, threshold in enumerate(THRESHOLDS.tolist()):
        changes = {"threshold": threshold, "min_area": 0.0, "max_boxes": _NO_LIMIT}
        settings = by.settings.model_copy(update=changes)
        found = find_boxes(maps, upsampled_size(settings, by.input_size), settings).boxes
        height, width = sizes[found.image].T
        overlap = best_overlaps(found.scaled(width, height), true)
        largest = found.component == 0
        best[found.image[largest], 0, place] = overlap[largest]
        np.maximum.at(best[:, 1, place], found.image, overlap)
    return best
