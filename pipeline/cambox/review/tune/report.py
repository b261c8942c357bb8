"""What a tuning says, for people and programs, and the recipe that it ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console

from cambox.config import Config
from cambox.config_cam import CalibrationSettings
from cambox.console import one_visible_line, require_writable, say, write_files
from cambox.errors import RequestError
from cambox.review.evaluate.report import Estimate, Figure, Part, Unmeasured
from cambox.review.tune.settings import OBJECTIVES, settings_text


class PassResult(Part):
    """One pass: how good it is with box settings chosen for it."""

    settings: dict[str, Any]  # what it changes; empty for the given settings
    folder: str  # the URI of its rows and maps
    figure: Figure  # on held-out folds, the box settings chosen on the others within this pass


class Score(Part):
    """ECE, Brier score (both 0 at best) and the area under the ROC curve of one kind of score."""

    error: float
    brier: float
    auc: float


class CalibrationResult(Part):
    """A calibration, judged as ``HeldOutCalibration`` on boxes that it was not fitted to."""

    boxes: int
    right: int
    fitted: CalibrationSettings  # to all boxes, for the recipe
    calibrated: Score  # of the probabilities, on held-out folds
    by_chance: float
    plain: Score  # of the mean of the map inside the box


class Tuning(Part):
    """The whole result."""

    schema_version: Literal[1] = 1
    cambox: str
    objective: str  # what is made high
    truth: str
    images: int
    pairs: int
    folds: int
    seed: int
    box_settings: int
    passes: tuple[PassResult, ...]
    given: Estimate  # of the given settings, on held-out folds
    tuned: Estimate  # of those chosen on the other folds
    gain: Estimate  # tuned minus given, from the same resamples of the images
    above_noise: bool  # the interval of the gain lies above 0
    chosen: dict[str, Any]  # best over all images; what it changes
    chosen_in_folds: tuple[dict[str, Any], ...]  # best over the images outside each fold
    taken: bool  # the recipe has the chosen settings; else it keeps the given ones
    calibration: CalibrationResult | Unmeasured


def print_tuning(tuning: Tuning, console: Console) -> None:
    """What was found, how sure it is, and what that means for the recipe."""
    tried = f"tried: {tuning.box_settings} box settings"
    passes = []
    if len(tuning.passes) > 1:
        tried += f" over each of {len(tuning.passes)} passes"
        passes = [
            *(
                f"  {100 * (entry.figure or 0):5.1f}  {settings_text(entry.settings)}"
                for entry in tuning.passes
            ),
            "  (held out; box settings chosen for each pass, on maps of the search)",
        ]
    say(
        console,
        f"{tuning.images} images, {tuning.pairs} (image, class) pairs with true boxes",
        f"objective {tuning.objective}: {OBJECTIVES[tuning.objective]}",
        tried,
        *passes,
        f"given settings:  {tuning.given.points()}",
        f"chosen settings: {tuning.tuned.points()}   on {tuning.folds} held-out folds, each with "
        "the settings that were best on the others",
        f"gain:            {tuning.gain.points(signed=True)} points, 95 % interval over images",
        *(
            f"  fold {number}: {settings_text(choice)}"
            for number, choice in enumerate(tuning.chosen_in_folds, 1)
        ),
        _verdict(tuning),
        *_calibration_lines(tuning.calibration, "no calibration of box_score: {}"),
    )


def _verdict(tuning: Tuning) -> str:
    best = settings_text(tuning.chosen)
    if tuning.above_noise:
        return f"taken: {best}"
    if not tuning.chosen:
        return "the given settings are the best of those tried; nothing is changed"
    if tuning.taken:
        return f"the gain is not above noise; taken all the same (--force): {best}"
    return (
        "the gain is not above noise, so the given settings are kept; best over all images was "
        f"{best} (--force takes it; more true boxes narrow the interval)"
    )


def _calibration_lines(result: CalibrationResult | Unmeasured, missing: str) -> list[str]:
    """What is known of a calibration; ``missing`` has a place for the reason why there is none."""
    if isinstance(result, Unmeasured):
        return [missing.format(result.reason)]
    mine, plain = result.calibrated, result.plain
    return [
        f"box_score as a probability: {result.boxes} boxes, {result.right} right at IoU 0.5; on "
        "held-out folds",
        f"ECE {mine.error:.3f} ({result.by_chance:.3f} by chance alone with so many boxes), "
        f"Brier {mine.brier:.3f}, AUC {mine.auc:.3f}.",
        f"Mean of the map instead: ECE {plain.error:.3f}, Brier {plain.brier:.3f}, "
        f"AUC {plain.auc:.3f}.",
    ]


def require_place(path: Path) -> None:
    """Before the work whose result goes there.

    Raises:
        RequestError: its folder does not exist or cannot be written, or it is a folder.
    """
    if path.is_dir():
        raise RequestError(f"--to: {path} is a folder; name a file, such as tuned.yaml")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"--to: the folder {path.parent} does not exist; make it first")
    require_writable(path.absolute().parent)


def write_recipe(config: Config, tuning: Tuning, path: Path) -> None:
    """Write the configuration, in place of an older one; the same tuning gives the same bytes.

    Raises:
        RequestError: it cannot be written.
    """
    write_files(path.parent, {path.name: recipe_text(config, tuning).encode()})


def recipe_text(config: Config, tuning: Tuning) -> str:
    """The file's content: YAML with comments at its head."""
    lines = [
        f"By cambox tune {tuning.cambox}, with {tuning.pairs} (image, class) pairs of "
        f"{tuning.images} images.",
        f"Objective: {OBJECTIVES[tuning.objective]}.",
        f"On {tuning.folds} held-out folds: given {tuning.given.points()}, "
        f"chosen {tuning.tuned.points()},",
        f"gain {tuning.gain.points(signed=True)} points (95 % interval).",
        f"Taken: {settings_text(tuning.chosen)}."
        if tuning.taken
        else "The gain is not above noise, so the settings are the given ones.",
        *_calibration_lines(tuning.calibration, "No calibration: {}."),
    ]
    # A line that went on would be no comment.
    head = "".join(f"# {one_visible_line(line)}\n" for line in lines)
    document: dict[str, Any] = config.model_dump(mode="json")
    return head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
