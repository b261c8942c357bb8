"""A tuning on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from cambox.review.evaluate.report import Estimate, Unmeasured
from cambox.review.tune.objective import DESCRIPTIONS, Objective
from cambox.review.tune.report import CalibrationResult, Tuning


def print_tuning(tuning: Tuning, console: Console) -> None:
    """What was found, how sure it is, and what that means for the recipe."""
    lines = [
        f"{tuning.images} images, {tuning.pairs} (image, class) pairs with true boxes",
        f"objective {tuning.objective}: {DESCRIPTIONS[Objective(tuning.objective)]}",
        f"tried: {tuning.box_settings} box settings"
        + (f" over each of {len(tuning.passes)} passes" if len(tuning.passes) > 1 else ""),
    ]
    if len(tuning.passes) > 1:
        lines += [
            f"  {100 * (entry.figure or 0):5.1f}  {settings_text(entry.settings)}"
            for entry in tuning.passes
        ]
        lines.append("  (held out; box settings chosen for each pass, on maps of the search)")
    lines += [
        f"given settings:  {points(tuning.given)}",
        f"chosen settings: {points(tuning.tuned)}   on {tuning.folds} held-out folds, each with "
        "the settings that were best on the others",
        f"gain:            {points(tuning.gain, signed=True)} points, 95 % interval over images",
        *(
            f"  fold {number}: {settings_text(choice)}"
            for number, choice in enumerate(tuning.chosen_in_folds, 1)
        ),
        _verdict(tuning),
    ]
    if isinstance(tuning.calibration, Unmeasured):
        lines.append(f"no calibration of box_score: {tuning.calibration.reason}")
    else:
        lines += calibration_lines(tuning.calibration)
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


def _verdict(tuning: Tuning) -> str:
    if tuning.above_noise:
        return f"taken: {settings_text(tuning.chosen)}"
    best = settings_text(tuning.chosen)
    if not tuning.chosen:
        return "the given settings are the best of those tried; nothing is changed"
    if tuning.taken:
        return f"the gain is not above noise; taken all the same (--force): {best}"
    return (
        "the gain is not above noise, so the given settings are kept; best over all images was "
        f"{best} (--force takes it; more true boxes narrow the interval)"
    )


def calibration_lines(result: CalibrationResult) -> list[str]:
    """What is known of a calibration."""
    mine, plain = result.calibrated, result.plain
    return [
        f"box_score as a probability: {result.boxes} boxes, {result.right} right at IoU 0.5; on "
        "held-out folds",
        f"ECE {mine.error:.3f} ({result.by_chance:.3f} by chance alone with so many boxes), "
        f"Brier {mine.brier:.3f}, AUC {mine.auc:.3f}.",
        f"Mean of the map instead: ECE {plain.error:.3f}, Brier {plain.brier:.3f}, "
        f"AUC {plain.auc:.3f}.",
    ]


def settings_text(choice: dict[str, Any]) -> str:
    """Settings in one line."""
    return ", ".join(f"{key}={value}" for key, value in choice.items()) or "as given"


def points(figure: Estimate, signed: bool = False) -> str:
    """A share in points, with its interval."""
    if figure.value is None or figure.low is None or figure.high is None:
        return "none"
    sign = "+" if signed else ""
    low, high = 100 * figure.low, 100 * figure.high
    return f"{100 * figure.value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
