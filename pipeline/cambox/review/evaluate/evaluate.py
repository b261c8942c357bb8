"""``cambox evaluate``: an output against true boxes, by the field's protocols."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cambox import __version__
from cambox.config_cam import BoxSettings
from cambox.console import Advance
from cambox.errors import RequestError
from cambox.output.reading import open_recipe, reviews_of
from cambox.review.evaluate.calibration import calibration
from cambox.review.evaluate.detection import AT_50, ClassMatches, detection, match
from cambox.review.evaluate.figures import Bootstrap
from cambox.review.evaluate.localisation import (
    Pairs,
    correct_localisation,
    groups,
    gt_known,
    max_box,
    pairs_of,
    sweep,
    top1,
)
from cambox.review.evaluate.remarks import counts_and_remarks
from cambox.review.evaluate.report import (
    BoxesOf,
    ClassResult,
    Evaluation,
    HeldOutCalibration,
    Unmeasured,
)
from cambox.review.rows_with_truth import MappedImages, numbered, read_rows
from cambox.review.truth import Truth, read_truth
from cambox.review.truth_files import UNKNOWN_CLASS

FOLDS = 5

NO_LABELS = Unmeasured(
    reason="not measurable: cam.classes is predicted, so no box is of a given label; annotate with "
    "--set cam.classes=both"
)
NO_TRUE_LABELS = Unmeasured(
    reason="not measurable: no true box is of a label of its sample; check the class indices of "
    "the truth"
)
NO_MAPS = Unmeasured(
    reason="not measurable: the output holds no maps to try thresholds on or to calibrate by; "
    "annotate with --set output.store_maps=true"
)
NO_BEST_CLASS = Unmeasured(
    reason="not measurable: cam.ranks leaves out the best predicted class, so it has no box; "
    "annotate with --set cam.ranks=null"
)
NOT_SWEPT = Unmeasured(reason="not measured: left out on request")

_BOXES_OF: dict[str, BoxesOf] = {
    "label": "given labels",
    "both": "given labels and predicted classes",
    "predicted": "predicted classes",
}


def evaluate(
    output: str,
    truth_uri: str,
    resamples: int = 1000,
    seed: int = 0,
    sweep_thresholds: bool = True,
    on_file: Advance | None = None,
    on_image: Advance | None = None,
) -> Evaluation:
    """Compare an output with true boxes.

    Args:
        output: URI of a recipe's folder, or of an output (see ``recipe_folder``).
        truth_uri: a CSV or COCO JSON file; see ``read_truth``.
        resamples: how often the images are drawn anew for the intervals.
        sweep_thresholds: also find the best threshold, where maps are stored.
        on_file, on_image: called after each file, and each image whose maps are tried.

    Raises:
        RequestError: output or truth cannot be read, or have no image in common.
    """
    # What the recipe made is judged, also of rows whose boxes are a person's by now.
    recipe = open_recipe(output, reviewed=False)
    truth = read_truth(truth_uri, recipe.footer.classes)
    try:
        cam, has_maps = recipe.settings["cam"], recipe.settings["output"]["store_maps"]
        if cam["classes"] == "none":
            raise RequestError(f"{recipe.uri} has no boxes by its recipe (cam.classes is none)")
        classes, boxes_of = cam["classes"], _BOXES_OF[cam["classes"]]
        best_has_box = cam["ranks"] is None or 1 in cam["ranks"]
        box_settings = BoxSettings.model_validate(recipe.settings["boxes"])
    except (KeyError, TypeError, ValueError) as error:
        raise recipe.other_make() from error
    labels = classes != "predicted"
    images = read_rows(recipe, truth, sweep_thresholds and has_maps, on_file)
    swept = sweep(images, box_settings, on_image) if sweep_thresholds and has_maps else None
    pairs = pairs_of(images.rows, swept)
    _require_pairs(images, pairs, truth, output, truth_uri)
    bootstrap = Bootstrap(len(images.rows), resamples, seed)
    labelled = pairs.only(pairs.labelled)
    reviews = reviews_of(recipe.folder)
    reviewed = {row.key for rows in reviews.by_shard.values() for row in rows} if reviews else set()
    counts, remarks = counts_and_remarks(images, pairs, truth, labels, reviewed)

    every = numbered(row.boxes for row in images.rows)
    judged = {boxes_of: every}
    if classes == "both":
        judged = {"given labels": every[every.rank == 0], **judged}
    matches = {of: match(boxes, images.true_boxes) for of, boxes in judged.items()}
    # Of given labels, where there are any.
    main = next(iter(judged))

    no_labels = None if labels else NO_LABELS
    if labels and not len(labelled.image):
        no_labels = NO_TRUE_LABELS
    no_maps = NO_MAPS if not has_maps else None if sweep_thresholds else NOT_SWEPT
    no_sweep = no_labels or no_maps
    # A label's box is what its class would get as a prediction, so labels alone are enough.
    no_top1 = None if labels or best_has_box else NO_BEST_CLASS
    of_known_class = labelled.only(labelled.class_id != UNKNOWN_CLASS)
    return Evaluation(
        cambox=__version__,
        output=recipe.uri,
        recipe=recipe.footer.recipe_digest,
        recipe_settings=recipe.settings,
        truth=truth_uri,
        resamples=resamples,
        seed=seed,
        counts=counts,
        remarks=remarks,
        gt_known=no_labels or gt_known(labelled, bootstrap),
        top1=no_top1 or top1(pairs, bootstrap),
        corloc=no_labels or correct_localisation(of_known_class, bootstrap),
        max_box=no_sweep or max_box(labelled, bootstrap),
        groups=groups(labelled, bootstrap, no_labels is None, no_sweep is None),
        detection=tuple(
            detection(of, images.rows, boxes, matches[of], bootstrap)
            for of, boxes in judged.items()
        ),
        calibration=calibration(main, matches[main], bootstrap),
        held_out_calibration=no_maps or _held_out_calibration(images, box_settings, seed),
        classes=tuple(_classes(labelled, matches[main], recipe.footer.classes, no_labels is None)),
    )


def _require_pairs(
    images: MappedImages, pairs: Pairs, truth: Truth, output: str, truth_uri: str
) -> None:
    if not images.rows:
        raise RequestError(
            f"--truth: none of the {len(truth.images)} images of {truth_uri} is among the "
            f"{images.total} rows of {output}: the first are {next(iter(truth.images))!r} and "
            f"{images.first_key!r}; an image is named by its sample's key, with or without the "
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
    images: MappedImages, settings: BoxSettings, seed: int
) -> HeldOutCalibration | Unmeasured:
    """What box_score would be worth, were it calibrated on these true boxes (``cambox tune``).

    A calibration and a least score among the recipe's settings do not count.
    """
    # It needs a compiler and scikit-learn, which whoever stores no maps need not wait for.
    from cambox.review.tune.calibrate import held_out_calibration

    by_key = images.by_key()
    (boxes,) = by_key.boxes([settings])
    return held_out_calibration(by_key, boxes[~np.isnan(boxes.class_score)], FOLDS, seed)


def _classes(
    pairs: Pairs, matches: list[ClassMatches], class_names: Sequence[str], known: bool
) -> Sequence[ClassResult]:
    results = []
    for of_class in matches:
        if of_class.class_id == UNKNOWN_CLASS:
            continue
        mine = pairs.only(pairs.class_id == of_class.class_id)
        measured = known and len(mine.image) > 0
        shares = [tuple(hits.mean(axis=0).tolist()) if measured else None for hits in mine.hits]
        results.append(
            ClassResult(
                class_id=of_class.class_id,
                class_name=class_names[of_class.class_id],
                images=len(np.unique(of_class.true_image)),
                true_boxes=len(of_class.true_image),
                boxes=len(of_class.image),
                gt_known=shares[0],
                centre_box=shares[1],
                ap=float(of_class.average_precision.mean()),
                ap50=float(of_class.average_precision[AT_50]),
            )
        )
    return results
