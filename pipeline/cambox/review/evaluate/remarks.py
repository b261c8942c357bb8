"""What can be compared, what was, and what a person should know of the rest.

Nothing is dropped in silence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cambox.config import BoxSettings
from cambox.review.evaluate.pairs import Pairs
from cambox.review.evaluate.report import BoxesOf, Counts, Unmeasured
from cambox.review.rows_with_truth import OK, RowsWithTruth, RowWithTruth
from cambox.review.truth import Truth

NAMES_SHOWN = 3

NO_LABELS = Unmeasured(
    reason="not measurable: cam.classes is predicted, so no box is of a given label; annotate with "
    "--set cam.classes=both"
)
NO_TRUE_LABELS = Unmeasured(
    reason="not measurable: no true box is of a label of its sample; check the class indices of "
    "the truth"
)
NO_MAPS = Unmeasured(
    reason="not measurable: the output holds no maps to try thresholds on or to calibrate by; "
    "annotate with --set output.store_maps=true"
)
NO_BEST_CLASS = Unmeasured(
    reason="not measurable: cam.ranks leaves out the best predicted class, so it has no box; "
    "annotate with --set cam.ranks=null"
)
NOT_SWEPT = Unmeasured(reason="not measured: left out on request")


@dataclass(frozen=True)
class Contents:
    """What the rows of a recipe hold, and how its boxes were made.

    Attributes:
        labels: given labels get boxes.
        predicted: predicted classes get boxes.
        best_predicted: so does the first of them.
        maps: the maps are stored.
        input_size: (height, width) of the network's input.
    """

    labels: bool
    predicted: bool
    best_predicted: bool
    maps: bool
    box_settings: BoxSettings
    input_size: tuple[int, int]

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any]) -> Contents:
        """From the resolved settings in a footer.

        Raises:
            KeyError, TypeError, ValueError: they are of another make.
        """
        cam = settings["cam"]
        height, width = settings["model"]["input_size"]
        return cls(
            labels=cam["classes"] != "predicted",
            predicted=cam["classes"] != "label",
            best_predicted=cam["ranks"] is None or 1 in cam["ranks"],
            maps=settings["output"]["store_maps"],
            box_settings=BoxSettings.model_validate(settings["boxes"]),
            input_size=(height, width),
        )

    @property
    def boxes(self) -> BoxesOf:
        """What all boxes of the output are of."""
        if not self.labels:
            return "predicted classes"
        return "given labels and predicted classes" if self.predicted else "given labels"

    @property
    def no_top1(self) -> Unmeasured | None:
        """Why Top-1 localisation cannot be measured; None where it can.

        A label's box is what its class would get as a prediction, so labels alone are enough.
        """
        return None if self.labels or self.best_predicted else NO_BEST_CLASS


def counts_of(read: RowsWithTruth, pairs: Pairs, true_boxes: int) -> Counts:
    """The numbers of the report's head."""
    statuses = Counter(row.status for row in read.rows if row.status != OK)
    return Counts(
        rows=read.total,
        images=len(read.rows),
        pairs=len(pairs.image),
        true_boxes=true_boxes,
        not_ok=dict(sorted(statuses.items())),
        truth_without_row=len(read.without_row),
        rows_without_truth=read.total - len(read.rows),
        pairs_without_label=int((~pairs.labelled).sum()),
    )


def remarks_of(
    read: RowsWithTruth, pairs: Pairs, truth: Truth, contents: Contents
) -> tuple[str, ...]:
    """What was left out or counts as missed, and what looks wrong; a line each."""
    remarks = list(truth.remarks)
    if read.without_row:
        remarks.append(
            f"{len(read.without_row)} images of the truth have no row in the output and are "
            f"left out: {_some(read.without_row)}"
        )
    without_truth = read.total - len(read.rows)
    if without_truth:
        remarks.append(f"{without_truth} rows are of images that the truth does not name, left out")
    statuses: dict[str, list[str]] = defaultdict(list)
    for row in read.rows:
        if row.status != OK:
            statuses[row.status].append(row.key)
    for status, keys in sorted(statuses.items()):
        remarks.append(f"{len(keys)} images are {status} and count as missed: {_some(keys)}")
    without_label = int((~pairs.labelled).sum())
    if contents.labels and without_label:
        remarks.append(
            f"{without_label} (image, class) pairs of the truth are of a class that is no label of "
            "the sample: left out of localisation, missed objects in detection"
        )
    several = sum(len(row.labels) > 1 for row in read.rows)
    if several and not truth.says_classes:
        remarks.append(
            f"{several} images have several labels and the truth says no classes: each true box "
            "counts for each label; a column class_index would tell them apart"
        )
    outside = sum(row.size is not None and _reaches_out(row) for row in read.rows)
    if outside:
        remarks.append(
            f"{outside} images have true boxes that reach beyond them: are these pixels of the "
            "upright image at its full size?"
        )
    return tuple(remarks)


def _reaches_out(row: RowWithTruth) -> bool:
    assert row.size is not None
    height, width = row.size
    corners = row.true_boxes.corners
    return bool((corners > np.array([width, height] * 2) + 1).any() or (corners < -1).any())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
