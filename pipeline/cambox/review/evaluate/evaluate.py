"""``cambox evaluate``: an output against true boxes, by the field's protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cambox import __version__
from cambox.errors import RequestError
from cambox.output.reading import open_recipe
from cambox.review.evaluate.calibration import calibration
from cambox.review.evaluate.detection import (
    AT_50,
    ClassMatches,
    asked_centre_boxes,
    detection,
    match,
)
from cambox.review.evaluate.figures import Bootstrap, hits_at
from cambox.review.evaluate.localisation import (
    correct_localisation,
    groups,
    gt_known,
    max_box,
    top1,
)
from cambox.review.evaluate.pairs import Pairs, pairs_of, sweep
from cambox.review.evaluate.remarks import (
    NO_LABELS,
    NO_MAPS,
    NO_TRUE_LABELS,
    NOT_SWEPT,
    Contents,
    counts_of,
    remarks_of,
)
from cambox.review.evaluate.report import (
    BoxesOf,
    ClassResult,
    Evaluation,
    HeldOutCalibration,
    Unmeasured,
)
from cambox.review.mapped_images import MappedImages
from cambox.review.rows_with_truth import RowsWithTruth, numbered, read_rows
from cambox.review.truth import Truth, read_truth
from cambox.review.truth_formats import UNKNOWN_CLASS

FOLDS = 5


def evaluate(
    output: str,
    truth_uri: str,
    resamples: int = 1000,
    seed: int = 0,
    sweep_thresholds: bool = True,
    on_file: Callable[[int], None] | None = None,
    on_image: Callable[[int], None] | None = None,
) -> Evaluation:
    """Compare an output with true boxes.

    Args:
        output: URI of a recipe's folder, or of an output that holds one recipe.
        truth_uri: a CSV or COCO JSON file; see ``read_truth``.
        resamples: how often the images are drawn anew for the intervals.
        sweep_thresholds: also find the best threshold, where maps are stored.
        on_file: called with the number of files, after each.
        on_image: called with the number of images whose maps are tried, after each.

    Raises:
        RequestError: output or truth cannot be read, or have no image in common.
    """
    recipe = open_recipe(output)
    truth = read_truth(truth_uri, recipe.footer.classes)
    try:
        contents = Contents.of_recipe(recipe.settings)
    except (KeyError, TypeError, ValueError) as error:
        raise recipe.other_make() from error
    with_maps = sweep_thresholds and contents.maps
    read = read_rows(recipe, truth, with_maps, on_file)
    images = MappedImages(read.rows, contents.input_size)
    swept = sweep(images, contents.box_settings, on_image) if with_maps else None
    pairs = pairs_of(read.rows, swept)
    _require_pairs(read, pairs, truth, output, truth_uri)
    bootstrap = Bootstrap(len(read.rows), resamples, seed)
    labelled = pairs.only(pairs.labelled)

    true = numbered(row.true_boxes for row in read.rows)
    every = numbered(row.boxes for row in read.rows)
    main: BoxesOf = contents.boxes
    matches = match(every, true)
    centre = match(asked_centre_boxes(read.rows, every, contents.labels), true)
    detections = [detection(main, matches, centre, bootstrap)]
    if contents.labels and contents.predicted:
        given = every[every.rank == 0]
        main, matches = "given labels", match(given, true)
        centre = match(asked_centre_boxes(read.rows, given, labels=True), true)
        detections.insert(0, detection(main, matches, centre, bootstrap))

    no_labels = None if contents.labels else NO_LABELS
    if contents.labels and not len(labelled.image):
        no_labels = NO_TRUE_LABELS
    no_maps = NO_MAPS if not contents.maps else None if sweep_thresholds else NOT_SWEPT
    no_sweep = no_labels or no_maps
    of_known_class = labelled.only(labelled.class_id != UNKNOWN_CLASS)
    return Evaluation(
        cambox=__version__,
        output=recipe.uri,
        recipe=recipe.footer.recipe_digest,
        recipe_settings=recipe.settings,
        truth=truth_uri,
        resamples=resamples,
        seed=seed,
        counts=counts_of(read, pairs, true_boxes=len(true)),
        remarks=remarks_of(read, pairs, truth, contents),
        gt_known=no_labels or gt_known(labelled, bootstrap),
        top1=contents.no_top1 or top1(pairs, bootstrap),
        corloc=no_labels or correct_localisation(of_known_class, bootstrap),
        max_box=no_sweep or max_box(labelled, bootstrap),
        groups=groups(labelled, bootstrap, no_labels is None, no_sweep is None),
        detection=tuple(detections),
        calibration=calibration(main, matches, bootstrap),
        held_out_calibration=no_maps or _held_out_calibration(read, contents, seed),
        classes=tuple(_classes(labelled, matches, recipe.footer.classes, no_labels is None)),
    )


def _require_pairs(
    read: RowsWithTruth, pairs: Pairs, truth: Truth, output: str, truth_uri: str
) -> None:
    if not read.rows:
        raise RequestError(
            f"--truth: none of the {len(truth.images)} images of {truth_uri} is among the "
            f"{read.total} rows of {output}: the first are {next(iter(truth.images))!r} and "
            f"{read.first_key!r}; an image is named by its sample's key, with or without the "
            "extension"
        )
    if not len(pairs.image):
        raise RequestError(f"--truth: {truth_uri} has no box in the images of {output}")
    if (pairs.class_id == UNKNOWN_CLASS).all():
        raise RequestError(
            f"--truth: {truth_uri} says no classes, and the samples of {output} have no labels; "
            "add a column class_index"
        )


def _held_out_calibration(
    read: RowsWithTruth, contents: Contents, seed: int
) -> HeldOutCalibration | Unmeasured:
    """What box_score would be worth, were it calibrated on these true boxes (``cambox tune``).

    A calibration and a least score among the recipe's settings do not count.
    """
    # It needs a compiler and scikit-learn, which whoever stores no maps need not wait for.
    from cambox.review.tune.calibrate import Folds, held_out_calibration

    images = MappedImages.by_key(read.rows, contents.input_size)
    (boxes,) = images.boxes([contents.box_settings])
    folds = Folds.draw(len(images), FOLDS, seed)
    known = ~np.isnan(boxes.class_score)
    return held_out_calibration(images, boxes[known], folds, seed)


def _classes(
    pairs: Pairs, matches: list[ClassMatches], class_names: Sequence[str], known: bool
) -> Sequence[ClassResult]:
    results = []
    for of_class in matches:
        if of_class.class_id == UNKNOWN_CLASS:
            continue
        mine = pairs.only(pairs.class_id == of_class.class_id)
        measured = known and len(mine.image) > 0
        results.append(
            ClassResult(
                class_id=of_class.class_id,
                class_name=class_names[of_class.class_id],
                images=len(np.unique(of_class.true_image)),
                true_boxes=len(of_class.true_image),
                boxes=len(of_class.image),
                gt_known=_means(mine.overlap) if measured else None,
                centre_box=_means(mine.centre) if measured else None,
                ap=float(of_class.average_precision.mean()),
                ap50=float(of_class.average_precision[AT_50]),
            )
        )
    return results


def _means(overlap: np.ndarray) -> tuple[float, ...]:
    return tuple(hits_at(overlap).mean(axis=0).tolist())
