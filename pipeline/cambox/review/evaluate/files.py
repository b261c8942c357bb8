"""Where an evaluation is kept."""

from __future__ import annotations

from pathlib import Path

from cambox.errors import RequestError
from cambox.output.publish import publish_bytes
from cambox.review.evaluate.plot import plot_evaluation
from cambox.review.evaluate.report import Evaluation


def require_folder(folder: Path) -> None:
    """Make the folder, before the work whose result goes there.

    Raises:
        RequestError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be made: {error.strerror}") from error


def write_evaluation(evaluation: Evaluation, folder: Path) -> tuple[Path, Path]:
    """Write ``evaluation.json`` and ``evaluation.png``, in place of older ones.

    Raises:
        RequestError: they cannot be written.
    """
    document, picture = folder / "evaluation.json", folder / "evaluation.png"
    text = evaluation.model_dump_json(indent=1) + "\n"
    try:
        publish_bytes(str(document.absolute()), text.encode())
        publish_bytes(str(picture.absolute()), plot_evaluation(evaluation))
    except OSError as error:
        raise RequestError(f"--to: {folder} cannot be written: {error.strerror}") from error
    return document, picture
