"""An evaluation on a terminal, as a picture, and in the files that it is kept in."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cambox.console import counted, say, write_files
from cambox.review.evaluate.report import (
    AtIou,
    Calibration,
    Comparison,
    Detection,
    Evaluation,
    MaxBox,
    Unmeasured,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("tab:blue", "tab:orange", "tab:green")


def write_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write ``evaluation.json`` and ``evaluation.png``, in place of older ones.

    Raises:
        RequestError: they cannot be written.
    """
    document = evaluation.model_dump_json(indent=1).encode() + b"\n"
    picture = plot_evaluation(evaluation)
    return write_files(folder, {"evaluation.json": document, "evaluation.png": picture})


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """All figures but those by class, with what they mean."""
    counts = evaluation.counts
    say(
        console,
        evaluation.verdict(),
        f"{evaluation.output}",
        f"{counted(counts.images, 'image')} with truth, "
        f"{counted(counts.pairs, '(image, class) pair')}, "
        f"{counted(counts.true_boxes, 'true box')}; in brackets 95 % intervals over "
        f"{evaluation.resamples} resamples of the images",
        *(f"remark: {remark}" for remark in evaluation.remarks),
    )
    _localisation(evaluation, console)
    _groups(evaluation, console)
    _detections(evaluation.detection, console)
    _calibration(evaluation, console)


def _localisation(evaluation: Evaluation, console: Console) -> None:
    rows: list[Sequence[str]] = []
    notes = []
    for name, figure in (
        ("GT-known", evaluation.gt_known),
        ("Top-1", evaluation.top1),
        ("CorLoc", evaluation.corloc),
        ("MaxBoxAcc and MaxBoxAccV2", evaluation.max_box),
    ):
        if isinstance(figure, Unmeasured):
            notes.append(f"{name}: {figure.reason}")
        elif isinstance(figure, Comparison):
            rows.append((name, "0.5", *_cells(figure)))
        elif isinstance(figure, MaxBox):
            rows += _at_ious("MaxBoxAcc", figure.max_box_acc)
            rows += _at_ious("MaxBoxAccV2", figure.max_box_acc_v2)
            rows.append(("MaxBoxAccV2", "mean", *_cells(figure.max_box_acc_v2_mean)))
        else:
            rows += _at_ious(name, figure)
    _print_table(console, ("one box", "IoU", "output", "centre box", "gain", "tau"), rows)
    say(
        console,
        *notes,
        "GT-known: the recipe's own box of the given label (component 0). Top-1: and the best "
        "predicted class is that label. CorLoc: GT-known, averaged over the classes.",
        "MaxBoxAcc: the largest box, and V2 any box, at the threshold tau that is best for these "
        "very images: above what a recipe reaches on others. The centre box has no threshold.",
    )


def _groups(evaluation: Evaluation, console: Console) -> None:
    rows = []
    for group in evaluation.groups:
        known, best = group.gt_known, group.max_box_acc
        centre = known or best
        shown = (known and known.output, best and best.output, centre and centre.centre_box)
        rows.append((group.name, str(group.pairs), *(one.points() if one else "" for one in shown)))
    _print_table(console, ("IoU 0.5", "pairs", "GT-known", "MaxBoxAcc", "centre box"), rows)
    say(console, "area: of the largest true box of the class, as a share of the image.")


def _detections(detections: Sequence[Detection], console: Console) -> None:
    for entry in detections:
        figures = {
            "precision at IoU 0.5": entry.precision,
            "recall at IoU 0.5": entry.recall,
            "AP, IoU 0.5 to 0.95": entry.ap,
            "AP50": entry.ap50,
            "AP75": entry.ap75,
        }
        rows = [(name, *_cells(figure)) for name, figure in figures.items()]
        _print_table(console, ("all boxes", "output", "centre box", "gain"), rows)
        say(
            console,
            f"{entry.boxes} boxes of {entry.boxes_of}, {entry.true_boxes} true ones, "
            "matched by pycocotools; within a class boxes are ranked by box_score, and all centre "
            "boxes have the same score.",
        )


def _calibration(evaluation: Evaluation, console: Console) -> None:
    calibration, held_out = evaluation.calibration, evaluation.held_out_calibration
    if isinstance(calibration, Unmeasured):
        say(console, f"calibration of box_score: {calibration.reason}")
        return
    rows = [
        (f"{one.low:.2f} to {one.high:.2f}", f"{one.score:.2f}", f"{one.right:.2f}", str(one.boxes))
        for one in calibration.bins
    ]
    _print_table(console, ("box_score", "mean", "right", "boxes"), rows)
    say(
        console,
        f"box_score of the {calibration.boxes} boxes of {calibration.boxes_of} is off by "
        f"{calibration.error.points()} points on average (ECE) as a probability of being right "
        "(IoU 0.5, each true box once). What a least score keeps is in evaluation.json and .png.",
        f"calibrated by cross-validation: {held_out.reason}"
        if isinstance(held_out, Unmeasured)
        else f"Calibrated on these true boxes (cambox tune), by cross-validation: {held_out.boxes} "
        f"boxes of all kinds, ECE {100 * held_out.error:.1f} points "
        f"({100 * held_out.by_chance:.1f} by chance alone with so many), Brier "
        f"{held_out.brier:.3f}, AUC {held_out.auc:.3f}.",
    )


def _print_table(console: Console, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    # Narrow, so that a figure with its interval stays on one line of 80 characters.
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


def _at_ious(name: str, entries: Sequence[AtIou]) -> list[Sequence[str]]:
    return [
        (
            name,
            f"{entry.iou:.1f}",
            *_cells(entry.share),
            "" if entry.threshold is None else f"{entry.threshold:.2f}",
        )
        for entry in entries
    ]


def _cells(figure: Comparison) -> tuple[str, str, str]:
    return figure.output.points(), figure.centre_box.points(), figure.gain.points(signed=True)


def plot_evaluation(evaluation: Evaluation) -> bytes:
    """A PNG of ``evaluation_figure``."""
    data = io.BytesIO()
    evaluation_figure(evaluation).savefig(data, format="png")
    return data.getvalue()


def evaluation_figure(evaluation: Evaluation) -> Figure:
    """Reliability, precision and recall against a least score, hits by threshold."""
    # Not pyplot: it keeps figures, and asks for a screen. Late, because it takes half a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.2), layout="constrained")
    reliability, scores, thresholds = figure.subplots(1, 3)
    calibration, best = evaluation.calibration, evaluation.max_box
    right = "share of right boxes (IoU 0.5)"
    _frame(reliability, "is box_score a probability?", "box_score", right, calibration)
    least = "least box_score"
    _frame(scores, "boxes with at least a score", least, "share (IoU 0.5)", calibration)
    _frame(thresholds, "hits by threshold", "boxes.threshold", "share of pairs hit", best)
    if not isinstance(calibration, Unmeasured):
        _reliability(reliability, calibration)
        _scores(scores, calibration)
    if not isinstance(best, Unmeasured):
        _thresholds(thresholds, best, evaluation.recipe_settings["boxes"]["threshold"])
    FigureCanvasAgg(figure)
    return figure


def _frame(axes: Axes, title: str, x_label: str, y_label: str, shown: object) -> None:
    axes.set(title=title, xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    if isinstance(shown, Unmeasured):
        axes.text(0.5, 0.5, shown.reason, ha="center", va="center", wrap=True)


def _reliability(axes: Axes, calibration: Calibration) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="it is")
    axes.plot(
        [group.score for group in calibration.bins],
        [group.right for group in calibration.bins],
        marker="o",
        label=f"{calibration.boxes} boxes in {len(calibration.bins)} groups, "
        f"ECE {calibration.error.value:.3f}",
    )
    _legend_below(axes)


def _scores(axes: Axes, calibration: Calibration) -> None:
    left = [point for point in calibration.curve if point.boxes]
    least = [point.min_score for point in left]
    for name in ("precision", "recall"):
        axes.plot(least, [getattr(point, name) for point in left], label=name)
    axes.plot(least, [point.boxes / calibration.boxes for point in left], "k:", label="boxes left")
    _legend_below(axes)


def _thresholds(axes: Axes, best: MaxBox, of_recipe: float) -> None:
    for curve, entry, colour in zip(best.curves, best.max_box_acc_v2, _COLOURS, strict=True):
        axes.plot(
            curve.thresholds, curve.largest, color=colour, label=f"largest box, IoU {curve.iou}"
        )
        axes.plot(curve.thresholds, curve.any, color=colour, linestyle=":")
        centre = entry.share.centre_box.value
        if centre is not None:
            axes.axhline(centre, color=colour, linewidth=0.8, linestyle="--")
    axes.axvline(of_recipe, color="grey", label="the recipe's")
    axes.plot([], [], "k:", label="any box")
    axes.plot([], [], "k--", linewidth=0.8, label="centre box")
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    """Beside the points and never over them."""
    axes.legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
