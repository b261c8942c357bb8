"""What was compared, and what a person should know of the rest: nothing is dropped in silence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from cambox.review.evaluate.measurable import Asked
from cambox.review.evaluate.pairs import Pairs
from cambox.review.evaluate.report import Counts
from cambox.review.rows_with_truth import OK, Judged, JudgedImage
from cambox.review.truth import Truth

NAMES_SHOWN = 3


def counts_of(judged: Judged, pairs: Pairs, true_boxes: int) -> Counts:
    """The numbers of the report's head."""
    statuses = Counter(image.status for image in judged.images if image.status != OK)
    return Counts(
        rows=judged.rows,
        images=len(judged.images),
        pairs=len(pairs.image),
        true_boxes=true_boxes,
        not_ok=dict(sorted(statuses.items())),
        truth_without_row=len(judged.without_row),
        rows_without_truth=judged.rows - len(judged.images),
        pairs_without_label=int((~pairs.labelled).sum()),
    )


def remarks_of(judged: Judged, pairs: Pairs, truth: Truth, asked: Asked) -> tuple[str, ...]:
    """What was left out or counts as missed, and what looks wrong; a line each."""
    remarks = list(truth.remarks)
    if judged.without_row:
        remarks.append(
            f"{len(judged.without_row)} images of the truth have no row in the output and are "
            f"left out: {_some(judged.without_row)}"
        )
    without_truth = judged.rows - len(judged.images)
    if without_truth:
        remarks.append(f"{without_truth} rows are of images that the truth does not name, left out")
    statuses: dict[str, list[str]] = defaultdict(list)
    for image in judged.images:
        if image.status != OK:
            statuses[image.status].append(image.key)
    for status, keys in sorted(statuses.items()):
        remarks.append(f"{len(keys)} images are {status} and count as missed: {_some(keys)}")
    without_label = int((~pairs.labelled).sum())
    if asked.labels and without_label:
        remarks.append(
            f"{without_label} (image, class) pairs of the truth are of a class that is no label of "
            "the sample: left out of localisation, missed objects in detection"
        )
    several = sum(len(image.labels) > 1 for image in judged.images)
    if several and all(image.classes is None for image in truth.images.values()):
        remarks.append(
            f"{several} images have several labels and the truth says no classes: each true box "
            "counts for each label; a column class_index would tell them apart"
        )
    outside = sum(image.size is not None and _reaches_out(image) for image in judged.images)
    if outside:
        remarks.append(
            f"{outside} images have true boxes that reach beyond them: are these pixels of the "
            "upright image at its full size?"
        )
    return tuple(remarks)


def _reaches_out(image: JudgedImage) -> bool:
    assert image.size is not None
    height, width = image.size
    limits = np.array([width, height, width, height]) + 1
    return any((boxes > limits).any() or (boxes < -1).any() for boxes in image.true_boxes.values())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
