"""``cambox evaluate``: an output against true boxes, by the field's protocols."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from cambox import __version__
from cambox.config import BoxSettings
from cambox.errors import RequestError
from cambox.output.reading import published_recipe, recipe_footer
from cambox.review.evaluate.bootstrap import Bootstrap
from cambox.review.evaluate.counts import counts_of, remarks_of
from cambox.review.evaluate.detection import AT_50, ClassMatches, match
from cambox.review.evaluate.localisation import (
    correct_localisation,
    groups,
    gt_known,
    max_box,
    top1,
)
from cambox.review.evaluate.measurable import (
    NO_LABELS,
    NO_MAPS,
    NO_TRUE_LABELS,
    NOT_SWEPT,
    Asked,
    BoxesOf,
)
from cambox.review.evaluate.pairs import Pairs, pairs_of
from cambox.review.evaluate.protocol import hits_at
from cambox.review.evaluate.recalibrated import held_out_calibration
from cambox.review.evaluate.report import ClassResult, Evaluation
from cambox.review.evaluate.several_objects import (
    calibration,
    centre_boxes_of,
    detection,
    found_boxes_of,
    true_boxes_of,
)
from cambox.review.evaluate.sweep import SweepRule
from cambox.review.rows_with_truth import UNKNOWN_CLASS, Judged, judge
from cambox.review.truth import Truth, read_truth


def evaluate(
    output: str,
    truth_uri: str,
    resamples: int = 1000,
    seed: int = 0,
    sweep_thresholds: bool = True,
    on_file: Callable[[], None] | None = None,
) -> Evaluation:
    """Compare an output with true boxes.

    Args:
        output: URI of a recipe's folder, or of an output that holds one recipe.
        truth_uri: a CSV or COCO JSON file; see ``read_truth``.
        resamples: how often the images are drawn anew for the intervals.
        sweep_thresholds: also find the best threshold, where maps are stored.
        on_file: called after each file of the output.

    Raises:
        RequestError: output or truth cannot be read, or have no image in common.
    """
    filesystem, folder = published_recipe(output)
    footer = recipe_footer(filesystem, folder)
    truth = read_truth(truth_uri, footer.classes)
    try:
        settings = json.loads(footer.recipe)
        asked = Asked.of_recipe(settings)
        sweep_rule = SweepRule.of_recipe(settings)
        box_settings = BoxSettings.model_validate(settings["boxes"])
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"{folder.uri}: its recipe is of another cambox; run cambox annotate again"
        ) from error
    swept = sweep_thresholds and asked.maps and asked.labels
    judged = judge(filesystem, folder, truth, sweep_rule if swept else None, on_file)
    pairs = pairs_of(judged.images)
    _require_pairs(judged, pairs, truth, output, truth_uri)
    bootstrap = Bootstrap(len(judged.images), resamples, seed)
    labelled = pairs.only(pairs.labelled)

    true = true_boxes_of(judged.images)
    every = found_boxes_of(judged.images, lambda rank: rank >= 0)
    matches = match(every, true)
    detections = [
        detection(
            asked.boxes,
            matches,
            match(centre_boxes_of(judged.images, every, asked.labels), true),
            bootstrap,
        )
    ]
    main: BoxesOf = asked.boxes
    if asked.labels and asked.predicted:
        given = found_boxes_of(judged.images, lambda rank: rank == 0)
        main, matches = "given labels", match(given, true)
        centre = match(centre_boxes_of(judged.images, given, labels=True), true)
        detections.insert(0, detection(main, matches, centre, bootstrap))

    no_labels = None if asked.labels else NO_LABELS
    if asked.labels and not len(labelled.image):
        no_labels = NO_TRUE_LABELS
    no_maps = NO_MAPS if not asked.maps else None if sweep_thresholds else NOT_SWEPT
    no_sweep = no_labels or no_maps
    of_known_class = labelled.only(labelled.class_id != UNKNOWN_CLASS)
    return Evaluation(
        cambox=__version__,
        output=folder.uri,
        recipe=footer.recipe_digest,
        recipe_settings=settings,
        truth=truth_uri,
        resamples=resamples,
        seed=seed,
        counts=counts_of(judged, pairs, true_boxes=len(true.image)),
        remarks=remarks_of(judged, pairs, truth, asked),
        gt_known=no_labels or gt_known(labelled, bootstrap),
        top1=asked.no_top1 or top1(pairs, bootstrap),
        corloc=no_labels or correct_localisation(of_known_class, bootstrap),
        max_box=no_sweep or max_box(labelled, bootstrap),
        groups=groups(labelled, bootstrap, no_labels is None, no_sweep is None),
        detection=tuple(detections),
        calibration=calibration(main, matches, bootstrap),
        held_out_calibration=no_maps or held_out_calibration(output, truth_uri, box_settings, seed),
        classes=tuple(_classes(labelled, matches, footer.classes, no_labels is None)),
    )


def _require_pairs(judged: Judged, pairs: Pairs, truth: Truth, output: str, truth_uri: str) -> None:
    if not judged.images:
        raise RequestError(
            f"--truth: none of the {len(truth.images)} images of {truth_uri} is among the "
            f"{judged.rows} rows of {output}: the first are {next(iter(truth.images))!r} and "
            f"{judged.first_key!r}; an image is named by its sample's key, with or without the "
            "extension"
        )
    if not len(pairs.image):
        raise RequestError(f"--truth: {truth_uri} has no box in the images of {output}")
    if (pairs.class_id == UNKNOWN_CLASS).all():
        raise RequestError(
            f"--truth: {truth_uri} says no classes, and the samples of {output} have no labels; "
            "add a column class_index"
        )


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
