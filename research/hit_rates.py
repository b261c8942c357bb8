"""How many maps point at their object, and what chance alone makes of the difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cambox.boxes import Boxes, best_overlaps
from cambox.cams.boxes import find_boxes
from cambox.config_cam import BoxSettings

RESAMPLES = 2000
IOUS = (0.3, 0.5, 0.7)
LARGEST, ANY = 0, 1


@dataclass(frozen=True)
class Interval:
    """Where 95 % of the resamples lie."""

    low: float
    high: float


def overlaps(
    maps: NDArray[np.float32],
    true_corners: Sequence[NDArray[np.float64]],
    side: int,
    thresholds: Sequence[float] | NDArray[np.float64],
    **settings: float,
) -> NDArray[np.float64]:
    """How well the boxes of maps fit at each threshold, a share of the map's maximum.

    Args:
        maps: (m, h, w), of an image and a class each.
        true_corners: of each map (n, 4), shares of the image.
        side: height and width that maps are upsampled to.
        settings: of boxes, others than the defaults.

    Returns:
        (2, m, thresholds) the best IoU with a true box, 0 to 1: of the ``LARGEST`` component's
        box, and of ``ANY`` component's. 0 where there is no box.
    """
    best = np.zeros((2, len(maps), len(thresholds)))
    for column, threshold in enumerate(thresholds):
        rule = BoxSettings.model_validate({"threshold": threshold, "percentile": 100, **settings})
        found = find_boxes(maps, (side, side), rule)
        for number, true in enumerate(true_corners):
            mine = Boxes.of(found.boxes.corners[found.of_map == number])
            each = best_overlaps(mine, Boxes.of(true))
            if len(each):
                best[:, number, column] = each[0], each.max()
    return best


def interval_over(
    pictures: NDArray[np.int64], statistic: Callable[[NDArray[np.int64]], float]
) -> Interval:
    """The middle 95 % of a number, when as many pictures are drawn with replacement.

    Pictures are drawn, not pairs: the pairs of one picture share its difficulty.

    Args:
        pictures: (P,) the picture of each pair.
        statistic: is given how often each pair counts (P,).
    """
    names, place = np.unique(pictures, return_inverse=True)
    generator = np.random.default_rng(0)
    even = np.full(len(names), 1 / len(names))
    counts = (generator.multinomial(len(names), even) for _ in range(RESAMPLES))
    low, high = np.percentile([statistic(count[place]) for count in counts], (2.5, 97.5))
    return Interval(float(low), float(high))


def table(results: Sequence[Any]) -> str:
    """Dataclasses as a table in Markdown, a column for each field."""
    names = [field.name for field in fields(results[0])]
    lines = [names, ["---"] * len(names)]
    lines += [[_text(getattr(result, name)) for name in names] for result in results]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _text(value: Any) -> str:
    if isinstance(value, Interval):
        return f"{value.low:.3f} to {value.high:.3f}"
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(one)}" for key, one in value.items())
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
