"""The figures of an output as they are kept: for programs, and for those who print them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from pydantic import BaseModel, ConfigDict

from cambox.review.gallery.distributions import SIZES
from cambox.review.stats.counts import PIXEL_SIZES, Counts


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassFigures(_Part):
    """One class; ``sizes`` are boxes by ``PIXEL_SIZES``, ``shares`` those by share of the image."""

    class_name: str
    boxes: int
    images: int
    sizes: dict[str, int]
    shares: dict[str, int]


class Balance(_Part):
    """How evenly the boxes are spread over the recipe's classes.

    Attributes:
        without_a_box: the names of classes that have none.
        largest: the class with the most boxes, and ``largest_share`` of all boxes; None: no box.
        evenness: entropy over that of as many classes with equally many boxes: 1 where all have as
            many, 0 where one has all; None where there is no box, or one class.
    """

    classes: int
    without_a_box: list[str]
    largest: str | None
    largest_share: float | None
    evenness: float | None


class ClassChange(_Part):
    """The boxes of a class, in files that are new, changed or gone."""

    class_name: str
    before: int
    now: int


class Since(_Part):
    """What changed since the run before, by its manifest.

    Attributes:
        manifest, at: of that run.
        new, changed, gone: files.
        not_kept: of ``changed`` and ``gone`` those whose earlier bytes are not there any more;
            statuses and boxes leave them out, rows do not.
        rows: more than before.
        statuses: rows of each more than before, those that changed.
        boxes: more than before.
        classes: whose boxes changed, the largest change first.
    """

    manifest: str
    at: datetime
    new: int
    changed: int
    gone: int
    not_kept: int
    rows: int
    statuses: dict[str, int]
    boxes: int
    classes: list[ClassChange]


class Statistics(_Part):
    """The whole report.

    Attributes:
        images: rows of status ``ok``, and ``without_boxes`` those of them that have no box.
        reviewed: rows that people have settled, whose boxes are theirs.
        sizes, shares: boxes, as in ``ClassFigures``.
        classes: that have a box, the largest first.
        since: None where no run ended before the last one.
    """

    schema_version: int = 1
    output: str
    recipe: str
    manifest: str | None
    files: int
    rows: int
    statuses: dict[str, int]
    images: int
    without_boxes: int
    reviewed: int
    boxes: int
    sizes: dict[str, int]
    shares: dict[str, int]
    balance: Balance
    classes: list[ClassFigures]
    since: Since | None


def named(names: Sequence[str], counts: np.ndarray) -> dict[str, int]:
    """Counts (n,) by their names."""
    return dict(zip(names, counts.tolist(), strict=True))


def class_figures(counts: Counts, names: Sequence[str]) -> list[ClassFigures]:
    """The classes that have a box, the largest first."""
    boxes = counts.class_boxes
    return [
        ClassFigures(
            class_name=names[at],
            boxes=int(boxes[at]),
            images=int(counts.class_images[at]),
            sizes=named(PIXEL_SIZES, counts.by_pixels[at]),
            shares=named(SIZES, counts.by_share[at]),
        )
        for at in np.argsort(-boxes, kind="stable").tolist()
        if boxes[at]
    ]


def balance_of(boxes: np.ndarray, names: Sequence[str]) -> Balance:
    """How evenly boxes (K,) are spread over classes."""
    total = int(boxes.sum())
    shares = boxes[boxes > 0] / max(total, 1)
    even = float(-(shares * np.log(shares)).sum() / np.log(len(boxes))) if len(boxes) > 1 else None
    return Balance(
        classes=len(names),
        without_a_box=[names[at] for at in np.flatnonzero(boxes == 0).tolist()],
        largest=names[int(boxes.argmax())] if total else None,
        largest_share=float(boxes.max() / total) if total else None,
        evenness=max(even, 0.0) if total and even is not None else None,
    )
