"""``cambox tune``: passes, the grid over their maps, folds, and a calibration at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console

from cambox.config import Config
from cambox.config_cam import BoxSettings
from cambox.console import Advance, Steps, say
from cambox.errors import RequestError
from cambox.output.reading import open_recipe
from cambox.review.rows_with_truth import MappedImages, pair_starts, read_rows
from cambox.review.truth import read_truth
from cambox.review.tune.report import Tuning
from cambox.review.tune.settings import Choice, changed, objective_of, settings_text, space
from cambox.run import run

LEAST_PAIRS = 50


@dataclass(frozen=True)
class TuneRequest:
    """What is asked for.

    Attributes:
        config: the given settings.
        truth: URI of the true boxes.
        shards: of the images with true boxes; None: the configuration's own input.
        work: URI of a folder for the passes.
        tried: ``--try`` options.
        beside: ``--beside`` options: recipes that compete with the configuration.
        objective: see ``objective_of``.
        force: take the chosen settings even where their gain is not above noise.
    """

    config: Config
    truth: str
    work: str
    shards: tuple[str, ...] | None = None
    tried: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    objective: str | None = None
    folds: int = 5
    seed: int = 0
    force: bool = False


class Pass(NamedTuple):
    """Settings that took a pass over the images, the folder of its rows, and what it stored.

    Attributes:
        has_maps: other boxes can be made of it; a pass that zooms has none but those it wrote.
    """

    settings: Choice
    folder: str
    images: MappedImages
    has_maps: bool


def tune(request: TuneRequest, console: Console) -> tuple[Config, Tuning]:
    """Choose settings and fit a calibration.

    Returns:
        The given configuration with what was chosen, and what is known of it.

    Raises:
        RequestError: the request cannot be carried out, or there are too few true boxes.
    """
    config = request.config
    # What is wrong with it is told before the passes; its classes can only be checked after them.
    read_truth(request.truth, None)
    if config.cam.classes == "none":
        raise RequestError("cam.classes: none gives no boxes to tune; set predicted or label")
    objective = objective_of(request.objective, labels=config.cam.uses_labels)
    every_box = objective == "ap"
    choices, of_passes = space(config, request.tried, request.beside, every_box)
    has_maps = [changed(config, choice).cam.zoom is None for choice in of_passes]
    folders = [_annotate(request, choice, console) for choice in of_passes]
    with Steps(console) as steps:
        advance = steps.step("files read")
        read = [
            _read(folder, request.truth, maps, advance)
            for folder, maps in zip(folders, has_maps, strict=True)
        ]
    pairs = len(pair_starts(read[0].true_boxes))
    if pairs < LEAST_PAIRS:
        raise RequestError(
            f"--truth: {request.truth} has boxes of {pairs} (image, class) pairs in the shards, "
            f"too few to choose by; give at least {LEAST_PAIRS}, better some hundred"
        )
    if len(read[0]) < request.folds:
        raise RequestError(f"--folds: {request.folds} is more than the {len(read[0])} images")
    # It needs a compiler and scikit-learn, which a wrong request need not wait for.
    from cambox.review.tune.search import Search

    passes = [Pass(*one) for one in zip(of_passes, folders, read, has_maps, strict=True)]
    return Search(request, objective, choices, passes, console).result()


def _annotate(request: TuneRequest, choice: Choice, console: Console) -> str:
    """Run one pass, or find it done; the folder of its rows."""
    config = changed(request.config, choice)
    say(console, f"pass: {settings_text(choice, 'the given settings')}")
    others = {} if request.shards is None else {"shards": list(request.shards), "images": []}
    if config.cam.zoom is None:
        # One box of each map, whatever its size, so that the row says the probability of its class;
        # and the same box settings always, so that a pass is found again whatever the recipe's are.
        boxes, stored = BoxSettings(max_boxes=1, min_area=0.0), True
    else:
        # A least score trades found objects for sureness, as the user likes; it has no part here.
        boxes, stored = config.boxes.model_copy(update={"min_score": 0.0}), False
    changes = {
        "boxes": boxes,
        "output": config.output.model_copy(update={"uri": request.work, "store_maps": stored}),
        "input": config.input.model_copy(update=others),
    }
    summary = run(config.model_copy(update=changes), console)
    if not summary.complete:
        raise RequestError(
            f"input.shards: {summary.failures[0].shard.uri} was given up "
            f"({summary.failures[0].reason}); mend or remove it"
        )
    return summary.folder


def _read(folder: str, truth_uri: str, with_maps: bool, on_file: Advance) -> MappedImages:
    """What a pass stored of the images with true boxes."""
    recipe = open_recipe(folder, reviewed=False)
    truth = read_truth(truth_uri, recipe.footer.classes)
    images = read_rows(recipe, truth, with_maps, on_file)
    if not images.rows:
        raise RequestError(
            f"--truth: none of the {len(truth.images)} images of {truth_uri} is among the "
            f"{images.total} samples of the shards; an image is named by its sample's key, with or "
            "without the extension"
        )
    return images.by_key()
