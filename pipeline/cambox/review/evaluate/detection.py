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
from cambox.review.truth_formats import UNKNOWN_CLASS

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

    mine = np.flatnonzero(found.class_id == class_id)
    theirs = np.flatnonzero(true.class_id == class_id)
    images = np.unique(np.concatenate([found.image[mine], true.image[theirs]]))
    evaluation = COCOeval(
        _coco(images, class_id, true, theirs), _coco(images, class_id, found, mine), "bbox"
    )
    evaluation.params.areaRng = [[0, float("inf")]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.params.maxDets = [_NO_LIMIT]
    evaluation.params.iouThrs = IOUS
    evaluation.params.recThrs = RECALLS
    evaluation.evaluate()
    evaluation.accumulate()
    of_image = [entry for entry in evaluation.evalImgs if entry is not None]
    # Ids are places in the arrays, from 1, because 0 is COCO's word for no match.
    order = np.array([place for entry in of_image for place in entry["dtIds"]], dtype=np.int64) - 1
    by_score = np.argsort(-found.score[order], kind="mergesort")
    matched = np.concatenate(
        [
            np.zeros((0, len(IOUS))),
            *(np.reshape(entry["dtMatches"], (len(IOUS), -1)).T for entry in of_image),
        ]
    )
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]
    return ClassMatches(
        class_id=class_id,
        image=found.image[order][by_score],
        score=found.score[order][by_score],
        right=matched[by_score] > 0,
        true_image=true.image[theirs],
        true_found=np.isin(theirs + 1, matched[:, AT_50]),
        average_precision=(precision.mean(axis=1) if len(theirs) else np.full(len(IOUS), np.nan)),
    )


def _coco(images: np.ndarray, class_id: int, boxes: Boxes, places: np.ndarray) -> COCO:
    from pycocotools.coco import COCO

    annotations = []
    for place in places.tolist():
        x_min, y_min, x_max, y_max = boxes.corners[place].tolist()
        width, height = x_max - x_min, y_max - y_min
        annotations.append(
            {
                "id": place + 1,
                "image_id": int(boxes.image[place]),
                "category_id": class_id,
                "bbox": [x_min, y_min, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": float(boxes.score[place]),
            }
        )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": int(image)} for image in images],
        "annotations": annotations,
        "categories": [{"id": class_id}],
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
    true = weights[:, matches.true_image].sum(axis=1)
    result = np.full((len(weights), len(IOUS)), np.nan)
    result[true > 0] = 0
    if len(matches.image) == 0:
        return result
    of_box = weights[:, matches.image]
    total = np.cumsum(of_box, axis=1)[:, :, None]
    right = np.cumsum(of_box[:, :, None] * matches.right, axis=1)
    precision = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.divide(
        right, true[:, None, None], out=np.zeros_like(right), where=true[:, None, None] > 0
    )
    # How many of the 101 recalls each box is the first to reach.
    reached = np.searchsorted(RECALLS, recall, side="right")
    first = np.diff(reached, axis=1, prepend=0)
    averaged = (highest * first).sum(axis=1) / len(RECALLS)
    result[true > 0] = averaged[true > 0]
    return result


def figures(matches: list[ClassMatches], weights: np.ndarray) -> np.ndarray:
    """(d, 5) precision and recall of all boxes at IoU 0.5; AP, AP50 and AP75.

    True boxes of an unknown class count for recall; it is none of the classes that average
    precision is averaged over.

    Args:
        weights: (d, images).
    """
    draws = len(weights)
    found, right, true, true_found = (np.zeros(draws) for _ in range(4))
    classes = []
    for of_class in matches:
        of_box = weights[:, of_class.image]
        of_true = weights[:, of_class.true_image]
        found += of_box.sum(axis=1)
        right += of_box @ of_class.right[:, AT_50]
        true += of_true.sum(axis=1)
        true_found += of_true @ of_class.true_found
        if of_class.class_id != UNKNOWN_CLASS and len(of_class.true_image):
            classes.append(weighted_precision(of_class, weights))
    averaged = mean_over_classes(
        np.stack(classes, axis=1) if classes else np.zeros((draws, 0, len(IOUS)))
    )
    averages = (averaged.mean(axis=1), averaged[:, AT_50], averaged[:, AT_75])
    return np.stack([ratio(right, found), ratio(true_found, true), *averages], axis=1)


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
