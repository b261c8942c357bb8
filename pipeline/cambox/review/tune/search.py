"""Which settings are best, judged on images that had no part in choosing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from cambox import __version__
from cambox.boxes import Boxes
from cambox.cams.score import probability, traits
from cambox.config import Config
from cambox.config_cam import BoxSettings
from cambox.console import Steps
from cambox.review.evaluate.detection import AT_50, match, weighted_precision
from cambox.review.evaluate.figures import (
    MAIN_IOU,
    Bootstrap,
    difference,
    estimate,
    hits_at,
    mean_over_classes,
    share,
)
from cambox.review.evaluate.report import Unmeasured
from cambox.review.rows_with_truth import MappedImages, pair_overlaps, pair_starts
from cambox.review.tune.calibrate import (
    RIGHT,
    fit,
    fold_of_images,
    held_out_calibration,
    score_quality,
)
from cambox.review.tune.report import CalibrationResult, PassResult, Score, Tuning
from cambox.review.tune.settings import RECIPE, Choice, changed

if TYPE_CHECKING:
    from cambox.review.tune.tune import Pass, TuneRequest

# The grid is searched on maps of this longer side, which moves a box by less than a hundredth of
# the image; what is reported is measured at the recipe's own resolution.
SEARCH_RESOLUTION = 112

ZOOMED = Unmeasured(
    reason="the boxes are of looks at several sizes, whose box_score is a probability by itself "
    "(cam.zoom.agreement)"
)

Figure = Callable[[np.ndarray], np.ndarray]
"""From weights (d, images), how often each image counts, to (d, 1), 0 to 1."""


@dataclass(frozen=True)
class Search:
    """The steps of one tuning over what the passes left.

    A candidate is a pass with box settings over its maps, or as it is where it has none; they go
    by their number, and 0 is what was given.

    Attributes:
        choices: of box settings; the first changes nothing.
        passes: the first is of the given settings; all are of the same images.
    """

    request: TuneRequest
    objective: str
    choices: Sequence[Choice]
    passes: Sequence[Pass]
    console: Console

    @property
    def images(self) -> MappedImages:
        """The images with their true boxes."""
        return self.passes[0].images

    @cached_property
    def candidates(self) -> list[tuple[int, Choice]]:
        """The place of the pass of each, and its box settings."""
        return [
            (place, choice)
            for place, one in enumerate(self.passes)
            for choice in (self.choices if one.has_maps else ({},))
        ]

    @cached_property
    def fold(self) -> np.ndarray:
        """(images,) the fold of each."""
        return fold_of_images(len(self.images), self.request.folds, self.request.seed)

    def result(self) -> tuple[Config, Tuning]:
        """Search, choose, and judge on held-out images.

        Returns:
            The given configuration with what was chosen, and what is known of it.
        """
        request, images = self.request, self.images
        everywhere, outside, inside = self._figures()
        chosen = int(_best(everywhere))
        in_folds = _best(outside).tolist()
        passes = []
        of_pass = np.array([place for place, _ in self.candidates])
        for number, one in enumerate(self.passes):
            mine = of_pass == number
            best_outside = inside[mine][_best(outside[mine]), np.arange(request.folds)]
            figure = float(np.nanmean(best_outside))
            passes.append(PassResult(settings=one.settings, folder=one.folder, figure=figure))
        bootstrap = Bootstrap(len(images), seed=request.seed)
        given, tuned = (
            bootstrap.draw(self._measured(boxes[self._judged(boxes.rank)]))[:, 0]
            for boxes in (self._exact(0), self._held_out(in_folds))
        )
        gain = difference(tuned, given)
        above_noise = gain.low is not None and gain.low > 0
        taken = above_noise or (request.force and chosen != 0)
        kept = (chosen, in_folds) if taken else (0, [0] * request.folds)
        tuning = Tuning(
            cambox=__version__,
            objective=self.objective,
            truth=request.truth,
            images=len(images),
            pairs=len(pair_starts(images.true_boxes)),
            folds=request.folds,
            seed=request.seed,
            box_settings=len(self.choices),
            passes=tuple(passes),
            given=estimate(given),
            tuned=estimate(tuned),
            gain=gain,
            above_noise=above_noise,
            chosen=self._changes(chosen),
            chosen_in_folds=tuple(self._changes(candidate) for candidate in in_folds),
            taken=taken,
            calibration=self._calibration(*kept),
        )
        config = changed(request.config, tuning.chosen) if taken else request.config
        if not isinstance(tuning.calibration, Unmeasured):
            boxes = config.boxes.model_copy(update={"calibration": tuning.calibration.fitted})
            config = config.model_copy(update={"boxes": boxes})
        return config, tuning

    def _figures(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each candidate, on maps of the search's resolution.

        Returns:
            (candidates,) over all images, (candidates, folds) over those outside each fold, and
            (candidates, folds) over those inside it.
        """
        others = (self.fold != np.arange(self.request.folds)[:, None]).astype(np.float64)
        weights = np.concatenate([np.ones((1, len(self.images))), others, 1 - others])
        figures: list[Figure] = []
        with Steps(self.console) as steps:
            advance = steps.step("images searched")
            total = sum(len(one.images) for one in self.passes if one.has_maps)
            for one in self.passes:
                if one.has_maps:
                    settings = [self._coarse(one.settings | choice) for choice in self.choices]
                    found = one.images.boxes(settings, self._judged, lambda _: advance(total))
                else:
                    written = one.images.written_boxes
                    found = [written[self._judged(written.rank)]]
                figures += map(self._measured, found)
        values = np.array([[figure(one[None])[0, 0] for one in weights] for figure in figures])
        everywhere, outside, inside = np.split(values, [1, 1 + self.request.folds], axis=1)
        return everywhere[:, 0], outside, inside

    def _coarse(self, choice: Choice) -> BoxSettings:
        settings = changed(self.request.config, choice).boxes
        if "boxes.resolution" in self.choices[-1]:
            return settings
        resolution = min(settings.resolution or SEARCH_RESOLUTION, SEARCH_RESOLUTION)
        return settings.model_copy(update={"resolution": resolution})

    def _judged(self, rank: np.ndarray) -> np.ndarray:
        """As cambox evaluate: where labels are given, the boxes of labels are what is judged."""
        of_labels: np.ndarray = rank == 0
        return of_labels if self.request.config.cam.uses_labels else ~of_labels

    def _changes(self, candidate: int) -> Choice:
        """What a candidate changes."""
        place, choice = self.candidates[candidate]
        wanted = self.passes[place].settings | choice
        recipe = {key: name for key, name in wanted.items() if key == RECIPE}
        given = changed(self.request.config, recipe)
        return recipe | {
            key: value
            for key, value in wanted.items()
            if key != RECIPE and changed(given, {key: value}) != given
        }

    def _exact(self, candidate: int) -> Boxes:
        """The boxes of a candidate as annotating would make them, up to 8 bits; of every rank."""
        place, choice = self.candidates[candidate]
        one = self.passes[place]
        if not one.has_maps:
            return one.images.written_boxes
        settings = changed(self.request.config, one.settings | choice).boxes
        (boxes,) = one.images.boxes([settings])
        return boxes

    def _held_out(self, in_folds: Sequence[int]) -> Boxes:
        """The boxes of each image by the settings that were chosen without it."""
        exact = {candidate: self._exact(candidate) for candidate in set(in_folds)}
        return Boxes.joined(
            exact[candidate][self.fold[exact[candidate].image] == fold]
            for fold, candidate in enumerate(in_folds)
        )

    def _calibration(self, chosen: int, in_folds: Sequence[int]) -> CalibrationResult | Unmeasured:
        """Of all boxes that the recipe writes, because each has a score."""
        request, images = self.request, self.images
        if not all(self.passes[self.candidates[one][0]].has_maps for one in (chosen, *in_folds)):
            return ZOOMED
        boxes = self._held_out(in_folds)
        result = held_out_calibration(images, boxes, request.folds, request.seed)
        if isinstance(result, Unmeasured):
            return result
        final = self._exact(chosen)
        return CalibrationResult(
            boxes=result.boxes,
            right=result.right,
            fitted=fit(traits(final), images.overlaps(final) >= RIGHT),
            calibrated=Score(error=result.error, brier=result.brier, auc=result.auc),
            by_chance=result.by_chance,
            plain=score_quality(boxes.score, images.overlaps(boxes) >= RIGHT),
        )

    def _measured(self, found: Boxes) -> Figure:
        """The objective's figure of boxes, corners as shares, over any images."""
        if self.objective == "ap":
            return self._average_precision(found)
        any_box = self.objective == "v2"
        true = self.images.true_boxes
        boxes = found if any_box else found[found.component == 0]
        hits = hits_at(pair_overlaps(true, self.images.in_pixels(boxes)))
        value = hits.mean(axis=1) if any_box else hits[:, MAIN_IOU].astype(np.float64)
        image = true.image[pair_starts(true)]
        return lambda weights: share(weights, image, value[:, None])

    def _average_precision(self, found: Boxes) -> Figure:
        calibration = self.request.config.boxes.calibration
        if calibration is not None:
            of_maps = ~np.isnan(found.outside)
            calibrated = probability(calibration, traits(found))
            found = found.with_columns(score=np.where(of_maps, calibrated, found.score))
        matches = match(self.images.in_pixels(found), self.images.true_boxes)
        classes = [entry for entry in matches if len(entry.true_image)]

        def figure(weights: np.ndarray) -> np.ndarray:
            of_classes = [weighted_precision(entry, weights)[:, [AT_50]] for entry in classes]
            return mean_over_classes(np.stack(of_classes, axis=1))

        return figure


def _best(figures: np.ndarray) -> np.ndarray:
    """The candidate of the highest of figures (candidates, ...), the first of equals.

    So what is given stays where nothing is better. NaN is where there is nothing to measure.
    """
    best: np.ndarray = np.nan_to_num(figures, nan=-1.0).argmax(axis=0)
    return best
