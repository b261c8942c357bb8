"""Which settings are best, judged on images that had no part in choosing them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from cambox import __version__
from cambox.boxes import Boxes
from cambox.cams.score import probability, traits
from cambox.config import BoxSettings, Config
from cambox.console import Steps
from cambox.review.evaluate.detection import AT_50, match, weighted_precision
from cambox.review.evaluate.figures import MAIN_IOU, Bootstrap, hits_at, mean_over_classes, share
from cambox.review.evaluate.localisation import difference, estimate
from cambox.review.evaluate.report import Unmeasured
from cambox.review.mapped_images import MappedImages
from cambox.review.rows_with_truth import pair_overlaps, pair_starts
from cambox.review.tune.calibrate import Folds, fit, held_out_calibration, right_of, score_quality
from cambox.review.tune.report import CalibrationResult, PassResult, Score, Tuning
from cambox.review.tune.settings import Choice, Objective, Space, changed
from cambox.threads import grouped

if TYPE_CHECKING:
    from cambox.review.tune.tune import TuneRequest

# The grid is searched on maps of this longer side, which moves a box by less than a hundredth of
# the image; what is reported is measured at the recipe's own resolution.
SEARCH_RESOLUTION = 112

Figure = Callable[[np.ndarray], np.ndarray]
"""From weights (d, images), how often each image counts, to (d, 1), 0 to 1."""

Measure = Callable[[Boxes], Figure]
"""From boxes, corners as shares, to the figure over any images."""


class Search:
    """The steps of one tuning over what the passes left.

    A candidate is a pass with box settings over its maps; they go by their number, and 0 is what
    was given.
    """

    def __init__(
        self,
        request: TuneRequest,
        objective: Objective,
        choices: Space,
        passes: Sequence[MappedImages],
        console: Console,
    ) -> None:
        self.request = request
        self.objective = objective
        self.choices = choices
        self.passes = passes
        self.console = console
        self.candidates = list(itertools.product(range(len(passes)), choices.boxes))
        self.folds = Folds.draw(len(passes[0]), request.folds, request.seed)
        self.measure = measure_of(objective, passes[0], request.config.boxes)

    def result(self, folders: Sequence[str]) -> tuple[Config, Tuning]:
        """Search, choose, and judge on held-out images.

        Args:
            folders: of the passes.

        Returns:
            The given configuration with what was chosen, and what is known of it.
        """
        request, images = self.request, self.passes[0]
        figures = self._search()
        per_pass = len(self.choices.boxes)
        of_passes = grouped(figures, per_pass)
        in_folds = best_of_folds(figures, self.folds)
        chosen = best(figures, np.ones((1, len(images))))
        bootstrap = Bootstrap(len(images), request.resamples, request.seed)
        given, tuned = (
            bootstrap.draw(self.measure(boxes[self._judged(boxes.rank)]))[0]
            for boxes in (self._exact(0), self._held_out(in_folds))
        )
        gain = difference(tuned, given)
        above_noise = gain.low is not None and gain.low > 0
        taken = above_noise or (request.force and chosen != 0)
        calibration = (
            self._calibration(chosen, in_folds)
            if taken
            else self._calibration(0, [0] * request.folds)
        )
        tuning = Tuning(
            cambox=__version__,
            objective=str(self.objective),
            truth=request.truth,
            images=len(images),
            pairs=len(pair_starts(images.true_boxes)),
            folds=request.folds,
            seed=request.seed,
            box_settings=per_pass,
            passes=tuple(
                PassResult(settings=settings, folder=folder, figure=self._held_out_figure(figures))
                for settings, folder, figures in zip(
                    self.choices.passes, folders, of_passes, strict=True
                )
            ),
            given=estimate(given),
            tuned=estimate(tuned),
            gain=gain,
            above_noise=above_noise,
            chosen=self._changes(chosen),
            chosen_in_folds=tuple(self._changes(candidate) for candidate in in_folds),
            taken=taken,
            calibration=calibration,
        )
        return self._final(tuning), tuning

    def _final(self, tuning: Tuning) -> Config:
        config = self.request.config
        if tuning.taken:
            config = changed(config, tuning.chosen)
        if isinstance(tuning.calibration, Unmeasured):
            return config
        boxes = config.boxes.model_copy(update={"calibration": tuning.calibration.fitted})
        return config.model_copy(update={"boxes": boxes})

    def _search(self) -> list[Figure]:
        """The figure of every candidate, on maps of the search's resolution."""
        figures = []
        settings = [self._coarse(choice) for choice in self.choices.boxes]
        with Steps(self.console) as steps:
            advance = steps.step("images searched")
            for images in self.passes:
                found = images.boxes(
                    settings, self._judged, lambda total: advance(total * len(self.passes))
                )
                figures += [self.measure(boxes) for boxes in found]
        return figures

    def _coarse(self, choice: Choice) -> BoxSettings:
        settings = changed(self.request.config, choice).boxes
        if "boxes.resolution" in self.choices.boxes[-1]:
            return settings
        resolution = min(settings.resolution or SEARCH_RESOLUTION, SEARCH_RESOLUTION)
        return settings.model_copy(update={"resolution": resolution})

    def _judged(self, rank: np.ndarray) -> np.ndarray:
        """As cambox evaluate: where labels are given, the boxes of labels are what is judged."""
        of_labels: np.ndarray = rank == 0
        return of_labels if self.request.config.cam.classes != "predicted" else ~of_labels

    def _held_out_figure(self, figures: Sequence[Figure]) -> float:
        """The mean over the folds, each with what is best on the others; on the search's maps."""
        values = [
            float(figures[index](self.folds.only(fold))[0, 0])
            for fold, index in enumerate(best_of_folds(figures, self.folds))
        ]
        return float(np.nanmean(values))

    def _changes(self, candidate: int) -> Choice:
        """What a candidate changes."""
        given = self.request.config
        place, boxes = self.candidates[candidate]
        wanted = {**self.choices.passes[place], **boxes}
        return {
            key: value for key, value in wanted.items() if changed(given, {key: value}) != given
        }

    def _exact(self, candidate: int) -> Boxes:
        """The boxes of a candidate as annotating would make them, up to 8 bits; of every rank."""
        place, choice = self.candidates[candidate]
        (boxes,) = self.passes[place].boxes([changed(self.request.config, choice).boxes])
        return boxes

    def _held_out(self, in_folds: Sequence[int]) -> Boxes:
        """The boxes of each image by the settings that were chosen without it."""
        exact = {candidate: self._exact(candidate) for candidate in set(in_folds)}
        return Boxes.joined(
            exact[candidate][self.folds.of_image[exact[candidate].image] == fold]
            for fold, candidate in enumerate(in_folds)
        )

    def _calibration(self, chosen: int, in_folds: Sequence[int]) -> CalibrationResult | Unmeasured:
        """Of all boxes that the recipe writes, because each has a score."""
        images = self.passes[0]
        boxes = self._held_out(in_folds)
        result = held_out_calibration(images, boxes, self.folds, self.request.seed)
        if isinstance(result, Unmeasured):
            return result
        final = self._exact(chosen)
        return CalibrationResult(
            boxes=result.boxes,
            right=result.right,
            fitted=fit(traits(final), right_of(images, final)),
            calibrated=Score(error=result.error, brier=result.brier, auc=result.auc),
            by_chance=result.by_chance,
            plain=score_quality(boxes.score, right_of(images, boxes)),
        )


def measure_of(objective: Objective, images: MappedImages, settings: BoxSettings) -> Measure:
    """How boxes of these images are measured.

    Args:
        settings: how boxes are scored, which average precision ranks them by.
    """
    if objective is Objective.ap:
        return lambda found: _average_precision(images, found, settings)
    return lambda found: _localisation(images, found, any_box=objective is Objective.v2)


def _localisation(images: MappedImages, found: Boxes, any_box: bool) -> Figure:
    boxes = found if any_box else found[found.component == 0]
    hits = hits_at(pair_overlaps(images.true_boxes, images.in_pixels(boxes)))
    value = hits.mean(axis=1) if any_box else hits[:, MAIN_IOU].astype(np.float64)
    image = images.true_boxes.image[pair_starts(images.true_boxes)]
    return lambda weights: share(weights, image, value[:, None])


def _average_precision(images: MappedImages, found: Boxes, settings: BoxSettings) -> Figure:
    if settings.calibration is not None:
        score = probability(settings.calibration, traits(found))
        found = found.with_columns(score=score)
    matches = match(images.in_pixels(found), images.true_boxes)
    classes = [entry for entry in matches if len(entry.true_image)]

    def figure(weights: np.ndarray) -> np.ndarray:
        of_classes = [weighted_precision(entry, weights)[:, [AT_50]] for entry in classes]
        return mean_over_classes(np.stack(of_classes, axis=1))

    return figure


def best(figures: Sequence[Figure], weights: np.ndarray) -> int:
    """The place of the highest figure; of equals the first, so that what is given stays.

    Args:
        weights: (1, images).
    """
    values = [float(figure(weights)[0, 0]) for figure in figures]
    # NaN where there is nothing to measure.
    return int(np.argmax(np.nan_to_num(values, nan=-1.0)))


def best_of_folds(figures: Sequence[Figure], folds: Folds) -> list[int]:
    """For each fold the best over all the other images."""
    return [best(figures, folds.others(fold)) for fold in range(folds.count)]
