"""An evaluation as one picture."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cambox.review.evaluate.report import Evaluation, Unmeasured

_COLOURS = ("tab:blue", "tab:orange", "tab:green")


def plot_evaluation(evaluation: Evaluation) -> bytes:
    """A PNG: reliability, precision and recall against a least score, hits by threshold."""
    # Not pyplot: it keeps figures, and asks for a screen.
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
