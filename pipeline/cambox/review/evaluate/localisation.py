"""One box for each class that an image is known to show: the figures with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cambox.boxes import Boxes, centre_box
from cambox.config_cam import BoxSettings
from cambox.console import Advance
from cambox.review.evaluate.figures import (
    IOUS,
    MAIN_IOU,
    Bootstrap,
    best_share,
    comparison,
    corloc,
    hits_at,
    share,
    share_of_images,
)
from cambox.review.evaluate.report import AtIou, Comparison, Group, MaxBox, ThresholdCurve
from cambox.review.rows_with_truth import (
    OK,
    MappedImages,
    RowWithTruth,
    numbered,
    pair_overlaps,
    pair_starts,
)

# Borders between sizes of objects, as shares of the image.
AREAS = (0.01, 0.05, 0.15, 0.5)
THRESHOLDS = np.arange(50) / 50
LARGEST, ANY = 0, 1
_NO_LIMIT = 2**31


@dataclass(frozen=True)
class Pairs:
    """Pairs of an image and a class that it is known to show, side by side.

    Attributes:
        image: (p,) the image's place.
        class_id: (p,)
        labelled: (p,) bool, the class is a label of the sample; also where the row is not ok, so
            that what could not be read counts as missed.
        first: (p,) bool, the class is the best predicted one.
        predicted: (p,) bool, it is among those of the row.
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
    predicted: np.ndarray
    overlap: np.ndarray
    centre: np.ndarray
    true_boxes: np.ndarray
    area: np.ndarray
    swept: np.ndarray

    @property
    def hits(self) -> tuple[np.ndarray, np.ndarray]:
        """(p, 3) bool each, at each of ``IOUS``: of the component-0 boxes, of the centred ones."""
        return hits_at(self.overlap), hits_at(self.centre)

    def only(self, chosen: np.ndarray) -> Pairs:
        """Some of the pairs; ``chosen`` is (p,) bool."""
        return Pairs(**{name: values[chosen] for name, values in vars(self).items()})

    def groups(self) -> dict[str, np.ndarray]:
        """(p,) bool each: by size and number of the true boxes, and by what the network sees."""
        borders = [0.0, *AREAS, np.inf]
        names = [
            f"area below {AREAS[0]:.0%}",
            *(f"area {low:.0%} to {high:.0%}" for low, high in pairwise(AREAS)),
            f"area above {AREAS[-1]:.0%}",
        ]
        spans = reversed(list(zip(names, pairwise(borders), strict=True)))
        return {
            **{name: (self.area >= low) & (self.area < high) for name, (low, high) in spans},
            "1 true box": self.true_boxes == 1,
            "2+ true boxes": self.true_boxes > 1,
            "among predicted": self.predicted,
            "not among them": ~self.predicted,
        }


def pairs_of(rows: Sequence[RowWithTruth], swept: np.ndarray | None = None) -> Pairs:
    """The pairs of all images, each image's classes in ascending order.

    Args:
        swept: what ``sweep`` gives for them; None: nothing was.
    """
    true = numbered(row.true_boxes for row in rows)
    starts = pair_starts(true)
    image, class_id = true.image[starts], true.class_id[starts]
    of_pair = list(zip([rows[place] for place in image], class_id.tolist(), strict=True))
    found = numbered(row.boxes for row in rows)
    pixels = np.array([np.prod(row.size) if row.size else np.nan for row, _ in of_pair])
    return Pairs(
        image=image,
        class_id=class_id,
        labelled=np.array([row.status != OK or one in row.labels for row, one in of_pair], bool),
        first=np.array([row.predicted[:1] == (one,) for row, one in of_pair], bool),
        predicted=np.array([one in row.predicted for row, one in of_pair], bool),
        overlap=pair_overlaps(true, found[found.component == 0]),
        centre=pair_overlaps(true, centre_boxes(rows, image, class_id)),
        true_boxes=np.diff(starts, append=len(true)),
        area=np.maximum.reduceat(true.area, starts) / pixels,
        swept=np.zeros((len(image), 2, len(THRESHOLDS))) if swept is None else swept,
    )


def centre_boxes(rows: Sequence[RowWithTruth], image: np.ndarray, class_id: np.ndarray) -> Boxes:
    """A centred box, score 1, for each of these images (n,) and classes (n,).

    What could not be read has none: the centred box misses it as well, so that both face the same
    images.
    """
    sizes = [row.size if row.size and row.status == OK else (0, 0) for row in rows]
    size = np.reshape(sizes, (-1, 2))[image]
    known = size.any(axis=1)
    shares = np.repeat(centre_box(1, 1), known.sum(), axis=0)
    boxes = Boxes.of(shares, image=image[known], class_id=class_id[known], score=1.0)
    return boxes.scaled(size[known, 1], size[known, 0])


def sweep(
    images: MappedImages, settings: BoxSettings, on_image: Advance | None = None
) -> np.ndarray:
    """How well the boxes of labels' maps fit at many thresholds, for who chooses the best one.

    Args:
        settings: of the recipe; threshold, min_area, max_boxes and suppress_overlap do not count.

    Returns:
        (p, 2, thresholds) of each pair the best IoU with a true box, 0 to 1: of the largest
        component's box, and of any component's. 0 where there is no box.
    """
    every = {"min_area": 0.0, "max_boxes": _NO_LIMIT, "suppress_overlap": None}
    tried = [settings.model_copy(update={**every, "threshold": t}) for t in THRESHOLDS.tolist()]
    result = [np.zeros((0, 2, len(tried)))]
    for places, found in images.boxes_in_parts(tried, lambda rank: rank == 0, on_image):
        start, end = np.searchsorted(images.true_boxes.image, [places[0], places[-1] + 1])
        true = images.true_boxes[start:end]
        of_thresholds = []
        for boxes in map(images.in_pixels, found):
            largest = pair_overlaps(true, boxes[boxes.component == 0])
            of_thresholds.append([largest, pair_overlaps(true, boxes)])
        result.append(np.array(of_thresholds).transpose(2, 1, 0))
    return np.concatenate(result)


def gt_known(pairs: Pairs, bootstrap: Bootstrap) -> tuple[AtIou, ...]:
    """Shares of pairs whose component-0 box hits, at each of ``IOUS``.

    Args:
        pairs: of given labels.
    """
    return _at_ious(*(bootstrap.draw(share, pairs.image, hits) for hits in pairs.hits))


def top1(pairs: Pairs, bootstrap: Bootstrap) -> tuple[AtIou, ...]:
    """Shares of images whose best predicted class is right and has a component-0 box that hits.

    The box of a class is the same whether it was asked for as a label or as a prediction.
    """
    first = pairs.first[:, None]
    return _at_ious(
        *(bootstrap.draw(share_of_images, pairs.image, hits & first) for hits in pairs.hits)
    )


def correct_localisation(pairs: Pairs, bootstrap: Bootstrap) -> Comparison:
    """CorLoc at IoU 0.5."""
    mine, centre = (
        bootstrap.draw(corloc, pairs.image, pairs.class_id, hits[:, [MAIN_IOU]])
        for hits in pairs.hits
    )
    return comparison(mine[:, 0], centre[:, 0])


def max_box(pairs: Pairs, bootstrap: Bootstrap) -> MaxBox:
    """MaxBoxAcc and MaxBoxAccV2, from the swept thresholds."""
    hits = hits_at(pairs.swept)
    of_largest, of_any = (
        bootstrap.draw(best_share, pairs.image, hits[:, which]) for which in (LARGEST, ANY)
    )
    centre = bootstrap.draw(share, pairs.image, pairs.hits[1])
    largest, any_box = hits.mean(axis=0)
    return MaxBox(
        max_box_acc=_at_ious(of_largest, centre, largest),
        max_box_acc_v2=_at_ious(of_any, centre, any_box),
        max_box_acc_v2_mean=comparison(of_any.mean(axis=1), centre.mean(axis=1)),
        curves=tuple(
            ThresholdCurve(
                iou=iou,
                thresholds=tuple(THRESHOLDS.tolist()),
                largest=tuple(largest[:, index].tolist()),
                any=tuple(any_box[:, index].tolist()),
            )
            for index, iou in enumerate(IOUS)
        ),
    )


def groups(pairs: Pairs, bootstrap: Bootstrap, known: bool, swept: bool) -> tuple[Group, ...]:
    """The main figures by the size and the number of the true boxes.

    Args:
        known, swept: whether GT-known localisation and MaxBoxAcc can be measured.
    """
    swept_hits = hits_at(pairs.swept[:, LARGEST])[:, :, [MAIN_IOU]]
    result = []
    for name, part in pairs.groups().items():
        inside = pairs.only(part)
        mine, centre = (
            bootstrap.draw(share, inside.image, hits)[:, MAIN_IOU] for hits in inside.hits
        )
        best = bootstrap.draw(best_share, pairs.image, swept_hits, part)[:, 0] if swept else None
        result.append(
            Group(
                name=name,
                pairs=int(part.sum()),
                gt_known=comparison(mine, centre) if known else None,
                max_box_acc=None if best is None else comparison(best, centre),
            )
        )
    return tuple(result)


def _at_ious(
    output: np.ndarray, centre: np.ndarray, by_threshold: np.ndarray | None = None
) -> tuple[AtIou, ...]:
    """Draws (1 + draws, 3) of a figure; shares of hits (thresholds, 3) where it chooses one."""
    best = None if by_threshold is None else THRESHOLDS[by_threshold.argmax(axis=0)]
    return tuple(
        AtIou(
            iou=iou,
            threshold=None if best is None else float(best[index]),
            share=comparison(output[:, index], centre[:, index]),
        )
        for index, iou in enumerate(IOUS)
    )
