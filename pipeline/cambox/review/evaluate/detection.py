"""All boxes of an output: matched to true ones by pycocotools, and average precision."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cambox.boxes import Boxes
from cambox.review.evaluate.figures import Bootstrap, comparison, mean_over_classes, ratio
from cambox.review.evaluate.localisation import centre_boxes
from cambox.review.evaluate.report import BoxesOf, Detection
from cambox.review.rows_with_truth import RowWithTruth, numbered
from cambox.review.truth_files import UNKNOWN_CLASS

if TYPE_CHECKING:
    # Imported where it is used: a wrong request need not wait for it.
    from pycocotools.coco import COCO

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AT_50, AT_75 = 0, 5
_NO_LIMIT = 2**31


@dataclass(frozen=True)
class ClassMatches:
    """The boxes of one class, matched.

    Attributes:
        image: (n,) of the found boxes, highest score first.
        score: (n,)
        right: (n, 10) bool, matched to a true box of its own at each of ``IOUS``.
        true_image: (m,) of the true boxes.
        true_found: (m,) bool, matched at IoU 0.5.
        average_precision: (10,) at each of ``IOUS``; NaN where the class has no true box.
    """

    class_id: int
    image: np.ndarray
    score: np.ndarray
    right: np.ndarray
    true_image: np.ndarray
    true_found: np.ndarray
    average_precision: np.ndarray


def match(found: Boxes, true: Boxes) -> list[ClassMatches]:
    """Match boxes, in pixels, with COCO's rule: highest score first, each true box once.

    Class by class, over the images that have the class: COCOeval over all of both would take time
    and memory for every image times every class.
    """
    classes = np.unique(np.concatenate([found.class_id, true.class_id]))
    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        return [_match_class(int(class_id), found, true) for class_id in classes]


def _match_class(class_id: int, found: Boxes, true: Boxes) -> ClassMatches:
    from pycocotools.cocoeval import COCOeval

    found, true = found[found.class_id == class_id], true[true.class_id == class_id]
    images = np.union1d(found.image, true.image).tolist()
    evaluation = COCOeval(_coco(images, true), _coco(images, found), "bbox")
    evaluation.params.areaRng = [[0, float("inf")]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.params.maxDets = [_NO_LIMIT]
    evaluation.params.iouThrs = IOUS
    evaluation.params.recThrs = RECALLS
    evaluation.evaluate()
    evaluation.accumulate()
    of_image = [entry for entry in evaluation.evalImgs if entry is not None]
    order = np.array([number for entry in of_image for number in entry["dtIds"]], np.int64) - 1
    matched = [np.reshape(entry["dtMatches"], (len(IOUS), -1)).T for entry in of_image]
    true_ids = np.concatenate([np.zeros((0, len(IOUS))), *matched])
    by_score = np.argsort(-found.score[order], kind="mergesort")
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]
    return ClassMatches(
        class_id=class_id,
        image=found.image[order][by_score],
        score=found.score[order][by_score],
        right=true_ids[by_score] > 0,
        true_image=true.image,
        true_found=np.isin(np.arange(len(true)) + 1, true_ids[:, AT_50]),
        average_precision=precision.mean(axis=1) if len(true) else np.full(len(IOUS), np.nan),
    )


def _coco(images: list[int], boxes: Boxes) -> COCO:
    """Boxes of one class; ids are their places from 1, because 0 is COCO's word for no match."""
    from pycocotools.coco import COCO

    columns = (boxes.image, np.hstack([boxes.corners[:, :2], boxes.sides]), boxes.area, boxes.score)
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": 0,
            "bbox": bbox,
            "area": area,
            "iscrowd": 0,
            "score": score,
        }
        for number, (image, bbox, area, score) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), 1
        )
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in images],
        "annotations": annotations,
        "categories": [{"id": 0}],
    }
    coco.createIndex()
    return coco


def weighted_precision(matches: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """Average precision where images count several times or not at all.

    As pycocotools has it: precision made monotone from the right and read at 101 recalls. With
    all weights 1 it is ``average_precision``.

    Args:
        weights: (d, images).

    Returns:
        (d, 10); NaN where no true box has a weight.
    """
    of_box = weights[:, matches.image, None]
    right = np.cumsum(of_box * matches.right, axis=1)
    precision = np.nan_to_num(ratio(right, np.cumsum(of_box, axis=1)))
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    true = weights[:, matches.true_image].sum(axis=1)[:, None]
    # How many of the 101 recalls each box is the first to reach.
    recall = np.nan_to_num(ratio(right, true[:, :, None]))
    reached = np.searchsorted(RECALLS, recall, side="right")
    first = np.diff(reached, axis=1, prepend=0)
    averaged = (highest * first).sum(axis=1) / len(RECALLS)
    return np.where(true > 0, averaged, np.nan)


def figures(matches: list[ClassMatches], weights: np.ndarray) -> np.ndarray:
    """(d, 5) precision and recall of all boxes at IoU 0.5; AP, AP50 and AP75.

    True boxes of an unknown class count for recall; it is none of the classes that average
    precision is averaged over.

    Args:
        matches: of one class or more.
        weights: (d, images).
    """
    of_box = weights[:, np.concatenate([one.image for one in matches])]
    of_true = weights[:, np.concatenate([one.true_image for one in matches])]
    right = of_box @ np.concatenate([one.right[:, AT_50] for one in matches])
    found = of_true @ np.concatenate([one.true_found for one in matches])
    of_classes = [
        weighted_precision(one, weights)
        for one in matches
        if one.class_id != UNKNOWN_CLASS and len(one.true_image)
    ]
    none = np.zeros((len(weights), 0, len(IOUS)))
    averaged = mean_over_classes(np.stack(of_classes, axis=1) if of_classes else none)
    columns = (
        ratio(right, of_box.sum(axis=1)),
        ratio(found, of_true.sum(axis=1)),
        averaged.mean(axis=1),
        averaged[:, AT_50],
        averaged[:, AT_75],
    )
    return np.stack(columns, axis=1)


def detection(
    boxes_of: BoxesOf,
    rows: Sequence[RowWithTruth],
    found: Boxes,
    matches: list[ClassMatches],
    bootstrap: Bootstrap,
) -> Detection:
    """Detection figures beside those of centred boxes: one, score 1, for each class asked for.

    A class is asked for as a label, or has a box.

    Args:
        found: the boxes of the rows, and ``matches`` theirs.
    """
    asked = set(zip(found.image.tolist(), found.class_id.tolist(), strict=True))
    if boxes_of != "predicted classes":
        asked |= {(place, label) for place, row in enumerate(rows) for label in row.labels}
    image, class_id = np.array(sorted(asked), np.int64).reshape(-1, 2).T
    centre = match(centre_boxes(rows, image, class_id), numbered(row.true_boxes for row in rows))
    mine, base = (
        bootstrap.draw(lambda weights, of: figures(of, weights), of).T for of in (matches, centre)
    )
    names = ("precision", "recall", "ap", "ap50", "ap75")
    return Detection(
        boxes_of=boxes_of,
        boxes=sum(len(of_class.image) for of_class in matches),
        true_boxes=sum(len(of_class.true_image) for of_class in matches),
        **dict(zip(names, map(comparison, mine, base), strict=True)),
    )
