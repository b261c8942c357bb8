"""What was compared, and what a person should know of the rest: nothing is dropped in silence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set as AbstractSet

import numpy as np

from cambox.errors import some_of
from cambox.review.evaluate.localisation import Pairs
from cambox.review.evaluate.report import Counts
from cambox.review.rows_with_truth import OK, MappedImages, RowWithTruth
from cambox.review.truth import Truth


def counts_and_remarks(
    images: MappedImages, pairs: Pairs, truth: Truth, labels: bool, reviewed: AbstractSet[str]
) -> tuple[Counts, tuple[str, ...]]:
    """The numbers of the report's head; what was left out or counts as missed, a line each.

    Args:
        labels: given labels get boxes.
        reviewed: keys of rows whose boxes people have reviewed.
    """
    statuses: dict[str, list[str]] = defaultdict(list)
    for row in images.rows:
        if row.status != OK:
            statuses[row.status].append(row.key)
    counts = Counts(
        rows=images.total,
        images=len(images.rows),
        pairs=len(pairs.image),
        true_boxes=int(pairs.true_boxes.sum()),
        not_ok={status: len(keys) for status, keys in sorted(statuses.items())},
        truth_without_row=len(images.without_row),
        rows_without_truth=images.total - len(images.rows),
        pairs_without_label=int((~pairs.labelled).sum()),
    )
    several = 0 if truth.says_classes else sum(len(row.labels) > 1 for row in images.rows)
    remarks = [
        (
            counts.truth_without_row,
            "images of the truth have no row in the output and are left out: "
            f"{some_of(images.without_row)}",
        ),
        (
            len(images.other_unicode),
            "images have a name in the truth that differs from the row's key by Unicode "
            f"normalisation (NFC, NFD) and is taken for it: {some_of(images.other_unicode)}",
        ),
        (counts.rows_without_truth, "rows are of images that the truth does not name, left out"),
        *(
            (len(keys), f"images are {status} and count as missed: {some_of(keys)}")
            for status, keys in sorted(statuses.items())
        ),
        (
            counts.pairs_without_label if labels else 0,
            "(image, class) pairs of the truth are of a class that is no label of the sample: "
            "left out of localisation, missed objects in detection",
        ),
        (
            several,
            "images have several labels and the truth says no classes: each true box counts for "
            "each label; a column class_index would tell them apart",
        ),
        (
            sum(row.key in reviewed for row in images.rows),
            "rows are reviewed: what the recipe made of them is judged, not what people did",
        ),
        (
            sum(map(_reaches_out, images.rows)),
            "images have true boxes that reach beyond them: are these pixels of the upright image "
            "at its full size?",
        ),
    ]
    return counts, (*truth.remarks, *(f"{count} {what}" for count, what in remarks if count))


def _reaches_out(row: RowWithTruth) -> bool:
    if row.size is None:
        return False
    height, width = row.size
    corners = row.true_boxes.corners
    return bool((corners > np.array([width, height] * 2) + 1).any() or (corners < -1).any())
