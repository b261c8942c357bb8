"""What the comparison of networks found: its figures, its tables and its picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from research.hit_rates import Interval
from research.map_variants import HeldOut


@dataclass(frozen=True)
class VariantResult:
    """Shares of (image, class) pairs whose largest box hits a true box at IoU 0.5.

    Attributes:
        kind: of the head.
        best: at the best threshold for all images, as a share of the maximum.
        by_threshold: at each threshold that was tried.
        gain: of ``best`` over that of the plain maps, each at its own best threshold.
        gain_interval: 95 % of it; None for the plain maps themselves.
    """

    network: str
    kind: str
    variant: str
    best: float
    best_threshold: float
    best_interval: Interval
    by_threshold: dict[str, float]
    gain: float
    gain_interval: Interval | None


@dataclass(frozen=True)
class Traits:
    """What a network and its features are like.

    Attributes:
        mean_average_precision: of classification, on held-out scenes, by the network's own head.
        pooling_change: of it, when features are pooled by TAP at 0.1 instead; None where nothing
            is pooled.
        negative: share of negative values in the features that the map is made of.
        zero: where no evidence at all lies between a map's minimum, 0, and its maximum, 1; median
            over the pairs.
        map_share: how much of the differences between pictures' logits the maps' means follow;
            the rest is in what the maps leave out.
        completeness_error: see ``cambox.models.inspect``.
    """

    network: str
    kind: str
    parameters: int
    mean_average_precision: float
    pooling_change: float | None
    pooling_interval: Interval | None
    negative: float
    zero: float
    map_share: float
    completeness_error: float | None


def tables(results: list[VariantResult], measured: list[Traits]) -> str:
    """Both tables of the page, in Markdown."""
    lines = [
        "| network | kind | mAP | change by TAP at 0.1 | negative features | zero lies at "
        "| of the logit in the map | error of the sum |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        change = ""
        if one.pooling_change is not None and one.pooling_interval is not None:
            change = f"{one.pooling_change:+.3f} ({_signed(one.pooling_interval, 3)})"
        error = "" if one.completeness_error is None else f"{one.completeness_error:.0e}"
        lines.append(
            f"| {one.network} | {one.kind} | {one.mean_average_precision:.3f} | {change} | "
            f"{one.negative:.0%} | {one.zero:.2f} | {one.map_share:.0%} | {error} |"
        )
    lines += [
        "",
        "| network | map | hits | 95 % | best threshold | against plain, points | 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        span = result.best_interval
        gain = gain_span = ""
        if result.gain_interval is not None:
            gain = f"{100 * result.gain:+.1f}"
            percent = Interval(100 * result.gain_interval.low, 100 * result.gain_interval.high)
            gain_span = _signed(percent, 1)
        lines.append(
            f"| {result.network} | {result.variant} | {result.best:.1%} | "
            f"{100 * span.low:.1f} to {100 * span.high:.1f} | {result.best_threshold:.2f} | "
            f"{gain} | {gain_span} |"
        )
    return "\n".join(lines)


def _signed(span: Interval, digits: int) -> str:
    return f"{span.low:+.{digits}f} to {span.high:+.{digits}f}"


def picture(held_out: HeldOut, maps: list[torch.Tensor], scenes: int) -> NDArray[np.uint8]:
    """A row for each scene: the picture, then the map of its first class by each network."""
    rows = []
    for image in range(scenes):
        pair = next(pair for pair in held_out.pairs if pair.image == image)
        shown = held_out.images[image]
        tiles = [shown]
        for of_network in maps:
            values = cv2.resize(
                of_network[image, pair.class_id].numpy(),
                (shown.shape[1], shown.shape[0]),
                interpolation=cv2.INTER_CUBIC,
            )
            levels = cv2.normalize(values, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
            heat = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
            tiles.append(cv2.addWeighted(shown, 0.35, heat, 0.65, 0).astype(np.uint8))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)
