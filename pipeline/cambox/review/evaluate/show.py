"""An evaluation on a terminal, as a picture, and in the files that it is kept in."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cambox.console import say, write_files
from cambox.review.evaluate.report import AtIou, Comparison, Detection, Evaluation, Unmeasured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
        f"{evaluation.output}",
        f"{counts.images} images with truth, {counts.pairs} (image, class) pairs, "
        f"{counts.true_boxes} true boxes; in brackets 95 % intervals over "
        f"{evaluation.resamples} resamples of the images",
        *(f"remark: {remark}" for remark in evaluation.remarks),
    )
    _localisation(evaluation, console)
    _groups(evaluation, console)
    _detections(evaluation.detection, console)
    _calibration(evaluation, console)


def _localisation(evaluation: Evaluation, console: Console) -> None:
    table = _table("one box", "IoU", "output", "centre box", "gain", "tau")
    notes = []
    for name, figure in (("GT-known", evaluation.gt_known), ("Top-1", evaluation.top1)):
        if isinstance(figure, Unmeasured):
            notes.append(f"{name}: {figure.reason}")
        else:
            for entry in figure:
                _add(table, name, entry)
    if isinstance(evaluation.corloc, Unmeasured):
        notes.append(f"CorLoc: {evaluation.corloc.reason}")
    else:
        table.add_row("CorLoc", "0.5", *_cells(evaluation.corloc), "")
    best = evaluation.max_box
    if isinstance(best, Unmeasured):
        notes.append(f"MaxBoxAcc and MaxBoxAccV2: {best.reason}")
    else:
        for entry in best.max_box_acc:
            _add(table, "MaxBoxAcc", entry)
        for entry in best.max_box_acc_v2:
            _add(table, "MaxBoxAccV2", entry)
        table.add_row("MaxBoxAccV2", "mean", *_cells(best.max_box_acc_v2_mean), "")
    console.print()
    console.print(table)
    notes += [
        "GT-known: the recipe's own box of the given label (component 0). Top-1: and the best "
        "predicted class is that label. CorLoc: GT-known, averaged over the classes.",
        "MaxBoxAcc: the largest box, and V2 any box, at the threshold tau that is best for these "
        "very images: above what a recipe reaches on others. The centre box has no threshold.",
    ]
    say(console, *notes)


def _groups(evaluation: Evaluation, console: Console) -> None:
    table = _table("IoU 0.5", "pairs", "GT-known", "MaxBoxAcc", "centre box")
    for group in evaluation.groups:
        known, best = group.gt_known, group.max_box_acc
        either = known or best
        table.add_row(
            group.name,
            str(group.pairs),
            "" if known is None else known.output.points(),
            "" if best is None else best.output.points(),
            "" if either is None else either.centre_box.points(),
        )
    console.print()
    console.print(table)
    say(console, "area: of the largest true box of the class, as a share of the image.")


def _detections(detections: Sequence[Detection], console: Console) -> None:
    for entry in detections:
        table = _table("all boxes", "output", "centre box", "gain")
        rows = (
            ("precision at IoU 0.5", entry.precision),
            ("recall at IoU 0.5", entry.recall),
            ("AP, IoU 0.5 to 0.95", entry.ap),
            ("AP50", entry.ap50),
            ("AP75", entry.ap75),
        )
        for name, figure in rows:
            table.add_row(name, *_cells(figure))
        console.print()
        console.print(table)
        say(
            console,
            f"{entry.boxes} boxes of {entry.boxes_of}, {entry.true_boxes} true ones, "
            "matched by pycocotools; within a class boxes are ranked by box_score, and all centre "
            "boxes have the same score.",
        )


def _calibration(evaluation: Evaluation, console: Console) -> None:
    calibration = evaluation.calibration
    if isinstance(calibration, Unmeasured):
        say(console, f"calibration of box_score: {calibration.reason}")
        return
    table = _table("box_score", "mean", "right", "boxes")
    for group in calibration.bins:
        table.add_row(
            f"{group.low:.2f} to {group.high:.2f}",
            f"{group.score:.2f}",
            f"{group.right:.2f}",
            str(group.boxes),
        )
    console.print()
    console.print(table)
    say(
        console,
        f"box_score of the {calibration.boxes} boxes of {calibration.boxes_of} is off by "
        f"{calibration.error.points()} points on average (ECE) as a probability of being right "
        "(IoU 0.5, each true box once). What a least score keeps is in evaluation.json and .png.",
    )
    held_out = evaluation.held_out_calibration
    if isinstance(held_out, Unmeasured):
        say(console, f"calibrated by cross-validation: {held_out.reason}")
        return
    say(
        console,
        f"Calibrated on these true boxes (cambox tune), by cross-validation: {held_out.boxes} "
        f"boxes of all kinds, ECE {100 * held_out.error:.1f} points "
        f"({100 * held_out.by_chance:.1f} by chance alone with so many), Brier "
        f"{held_out.brier:.3f}, AUC {held_out.auc:.3f}.",
    )


def _table(first: str, *columns: str) -> Table:
    # Narrow, so that a figure with its interval stays on one line of 80 characters.
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add(table: Table, name: str, entry: AtIou) -> None:
    threshold = "" if entry.threshold is None else f"{entry.threshold:.2f}"
    table.add_row(name, f"{entry.iou:.1f}", *_cells(entry.share), threshold)


def _cells(figure: Comparison) -> tuple[str, str, str]:
    return (
        figure.output.points(),
        figure.centre_box.points(),
        figure.gain.points(signed=True),
    )


def plot_evaluation(evaluation: Evaluation) -> bytes:
    """A PNG: reliability, precision and recall against a least score, hits by threshold."""
    # Not pyplot: it keeps figures, and asks for a screen. Late, because it takes half a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.2), layout="constrained")
    reliability, scores, thresholds = figure.subplots(1, 3)
    _reliability(reliability, evaluation)
    _scores(scores, evaluation)
    _thresholds(thresholds, evaluation)
    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png")
    return data.getvalue()


def _reliability(axes: Axes, evaluation: Evaluation) -> None:
    _frame(axes, "is box_score a probability?", "box_score", "share of right boxes (IoU 0.5)")
    calibration = evaluation.calibration
    if isinstance(calibration, Unmeasured):
        _missing(axes, calibration)
        return
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="it is")
    axes.plot(
        [group.score for group in calibration.bins],
        [group.right for group in calibration.bins],
        marker="o",
        label=f"{calibration.boxes} boxes in {len(calibration.bins)} groups, "
        f"ECE {calibration.error.value:.3f}",
    )
    axes.legend(loc="upper left")


def _scores(axes: Axes, evaluation: Evaluation) -> None:
    _frame(axes, "boxes with at least a score", "least box_score", "share (IoU 0.5)")
    calibration = evaluation.calibration
    if isinstance(calibration, Unmeasured):
        _missing(axes, calibration)
        return
    left = [point for point in calibration.curve if point.boxes]
    least = [point.min_score for point in left]
    for name in ("precision", "recall"):
        axes.plot(least, [getattr(point, name) for point in left], label=name)
    axes.plot(least, [point.boxes / calibration.boxes for point in left], "k:", label="boxes left")
    axes.legend()


def _thresholds(axes: Axes, evaluation: Evaluation) -> None:
    _frame(axes, "hits by threshold", "boxes.threshold", "share of pairs hit")
    best = evaluation.max_box
    if isinstance(best, Unmeasured):
        _missing(axes, best)
        return
    for curve, entry, colour in zip(best.curves, best.max_box_acc_v2, _COLOURS, strict=True):
        axes.plot(
            curve.thresholds, curve.largest, color=colour, label=f"largest box, IoU {curve.iou}"
        )
        axes.plot(curve.thresholds, curve.any, color=colour, linestyle=":")
        centre = entry.share.centre_box.value
        if centre is not None:
            axes.axhline(centre, color=colour, linewidth=0.8, linestyle="--")
    axes.axvline(
        evaluation.recipe_settings["boxes"]["threshold"], color="grey", label="the recipe's"
    )
    axes.plot([], [], "k:", label="any box")
    axes.plot([], [], "k--", linewidth=0.8, label="centre box")
    axes.legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))


def _frame(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set(title=title, xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)


def _missing(axes: Axes, figure: Unmeasured) -> None:
    axes.text(0.5, 0.5, figure.reason, ha="center", va="center", wrap=True)
