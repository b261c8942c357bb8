"""The recipe that a tuning ends with: a whole configuration, headed by what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cambox.config import Config
from cambox.errors import RequestError
from cambox.output.publish import publish_bytes
from cambox.review.evaluate.report import Unmeasured
from cambox.review.tune.objective import DESCRIPTIONS, Objective
from cambox.review.tune.report import Tuning
from cambox.review.tune.text import calibration_lines, points, settings_text


def require_writable(path: Path) -> None:
    """Before the work whose result goes there.

    Raises:
        RequestError: its folder does not exist, or it is a folder.
    """
    if path.is_dir():
        raise RequestError(f"--to: {path} is a folder; name a file, such as tuned.yaml")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"--to: the folder {path.parent} does not exist; make it first")


def write_recipe(config: Config, tuning: Tuning, path: Path) -> None:
    """Write the configuration, in place of an older one; the same tuning gives the same bytes.

    Raises:
        RequestError: it cannot be written.
    """
    try:
        publish_bytes(str(path.absolute()), recipe_text(config, tuning).encode())
    except OSError as error:
        raise RequestError(f"--to: {path} cannot be written: {error.strerror}") from error


def recipe_text(config: Config, tuning: Tuning) -> str:
    """The file's content: YAML with comments at its head."""
    lines = [
        f"By cambox tune {tuning.cambox}, with {tuning.pairs} (image, class) pairs of "
        f"{tuning.images} images.",
        f"Objective: {DESCRIPTIONS[Objective(tuning.objective)]}.",
        f"On {tuning.folds} held-out folds: given {points(tuning.given)}, "
        f"chosen {points(tuning.tuned)},",
        f"gain {points(tuning.gain, signed=True)} points (95 % interval).",
        f"Taken: {settings_text(tuning.chosen)}."
        if tuning.taken
        else "The gain is not above noise, so the settings are the given ones.",
    ]
    if isinstance(tuning.calibration, Unmeasured):
        lines.append(f"No calibration: {tuning.calibration.reason}.")
    else:
        lines += calibration_lines(tuning.calibration)
    head = "".join(f"# {line}\n" for line in lines)
    document: dict[str, Any] = config.model_dump(mode="json")
    return head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
