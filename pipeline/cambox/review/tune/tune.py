"""``cambox tune``: passes, the grid over their maps, folds, and a calibration at the end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.markup import escape

from cambox import __version__
from cambox.config import BoxSettings, CalibrationSettings, Config
from cambox.console import Steps
from cambox.errors import RequestError
from cambox.review.evaluate.bootstrap import Bootstrap
from cambox.review.evaluate.localisation import estimate
from cambox.review.evaluate.report import Estimate, Unmeasured
from cambox.review.tune.calibrate import (
    ScoreQuality,
    error_of_perfect_scores,
    fit,
    held_out_probabilities,
    right_of,
    too_few,
    traits_of,
)
from cambox.review.tune.choose import Folds, best, best_of_folds
from cambox.review.tune.found import FoundBox, find_boxes
from cambox.review.tune.images import PassImages, pair_count, read_pass
from cambox.review.tune.objective import Figure, Measure, Objective, measure_of
from cambox.review.tune.report import CalibrationResult, PassResult, Score, Tuning
from cambox.review.tune.settings import Choice, Space, changed, space
from cambox.run import run
from cambox.verify.report import FileCounter

LEAST_PAIRS = 50
# The grid is searched on maps of this longer side, which moves a box by less than a hundredth of
# the image; what is reported is measured at the recipe's own resolution.
SEARCH_RESOLUTION = 112


@dataclass(frozen=True)
class TuneRequest:
    """What is asked for.

    Attributes:
        config: the given settings.
        truth: URI of the true boxes.
        shards: of the images with true boxes; None: the configuration's own input.
        work: URI of a folder for the passes.
        tried: ``--try`` options.
        objective: None: GT-known where the recipe boxes given labels, else AP.
        force: take the chosen settings even where their gain is not above noise.
    """

    config: Config
    truth: str
    work: str
    shards: tuple[str, ...] | None = None
    tried: tuple[str, ...] = ()
    objective: Objective | None = None
    folds: int = 5
    seed: int = 0
    resamples: int = 1000
    force: bool = False


def tune(request: TuneRequest, console: Console) -> tuple[Config, Tuning]:
    """Choose settings and fit a calibration.

    Returns:
        The given configuration with what was chosen, and what is known of it.

    Raises:
        RequestError: the request cannot be carried out, or there are too few true boxes.
    """
    config = request.config
    labels = config.cam.classes != "predicted"
    objective = request.objective or (Objective.gt_known if labels else Objective.ap)
    if not labels and objective is not Objective.ap:
        raise RequestError(
            f"--objective {objective}: cam.classes is predicted, so no box is of a given label; "
            "use --set cam.classes=both, or --objective ap"
        )
    choices = space(config, request.tried, every_box=objective is Objective.ap)
    folders = [_annotate(request, choice, console) for choice in choices.passes]
    with FileCounter(console, "tune") as counter:
        passes = [read_pass(folder, request.truth, counter.advance) for folder in folders]
    _require_enough(passes[0], request)
    search = _Search(request, objective, choices, passes, console)
    tuning = search.tuning(folders)
    return search.final(tuning), tuning


def _annotate(request: TuneRequest, choice: Choice, console: Console) -> str:
    """Run one pass, or find it done; the folder of its rows."""
    config = changed(request.config, choice)
    named = ", ".join(f"{key}={value}" for key, value in choice.items()) or "the given settings"
    console.print(escape(f"pass: {named}"), highlight=False, soft_wrap=True)
    # One box of each map, whatever its size, so that the row says the probability of its class;
    # and the same box settings always, so that a pass is found again whatever the recipe's are.
    boxes = BoxSettings(max_boxes=1, min_area=0.0)
    output = config.output.model_copy(update={"uri": request.work, "store_maps": True})
    given = {} if request.shards is None else {"shards": list(request.shards)}
    summary = run(
        config.model_copy(
            update={
                "boxes": boxes,
                "output": output,
                "input": config.input.model_copy(update=given),
            }
        ),
        console,
    )
    if not summary.complete:
        raise RequestError(
            f"input.shards: {summary.failures[0].shard.uri} was given up "
            f"({summary.failures[0].reason}); mend or remove it"
        )
    return summary.folder


def _require_enough(images: PassImages, request: TuneRequest) -> None:
    pairs = pair_count(images.images)
    if pairs < LEAST_PAIRS:
        raise RequestError(
            f"--truth: {request.truth} has boxes of {pairs} (image, class) pairs in the shards, "
            f"too few to choose by; give at least {LEAST_PAIRS}, better some hundred"
        )
    if len(images.images) < request.folds:
        raise RequestError(f"--folds: {request.folds} is more than the {len(images.images)} images")


@dataclass(frozen=True)
class _Candidate:
    """Settings: a pass, and box settings over its maps."""

    place: int
    boxes: Choice


class _Search:
    """The steps of one tuning over what the passes left."""

    def __init__(
        self,
        request: TuneRequest,
        objective: Objective,
        choices: Space,
        passes: Sequence[PassImages],
        console: Console,
    ) -> None:
        self.request = request
        self.objective = objective
        self.choices = choices
        self.passes = passes
        self.console = console
        images = passes[0].images
        self.folds = Folds.draw(len(images), request.folds, request.seed)
        self.measure: Measure = measure_of(objective, images, request.config.boxes)
        labels = request.config.cam.classes != "predicted"
        # As cambox evaluate: where labels are given, the boxes of labels are what is judged.
        self.judged: Callable[[int], bool] = (
            (lambda rank: rank == 0) if labels else (lambda rank: rank > 0)
        )
        self.candidates = [
            _Candidate(place, boxes) for place in range(len(passes)) for boxes in choices.boxes
        ]

    def tuning(self, folders: Sequence[str]) -> Tuning:
        """Search, choose, and judge on held-out images."""
        request = self.request
        figures = self._search()
        per_pass = len(self.choices.boxes)
        in_folds = [self.candidates[index] for index in best_of_folds(figures, self.folds)]
        chosen = self.candidates[best(figures, np.ones((1, len(self.folds.of_image))))]
        given = self._exact(self.candidates[0], self.judged)
        held_out = self._held_out(in_folds, self.judged)
        bootstrap = Bootstrap(len(self.folds.of_image), request.resamples, request.seed)
        (of_given,) = bootstrap.draw(self.measure(given))
        (of_tuned,) = bootstrap.draw(self.measure(held_out))
        difference = of_tuned - of_given
        low, high = difference.interval
        above_noise = bool(low > 0)
        taken = above_noise or (request.force and chosen != self.candidates[0])
        return Tuning(
            cambox=__version__,
            objective=str(self.objective),
            truth=request.truth,
            images=len(self.folds.of_image),
            pairs=pair_count(self.passes[0].images),
            folds=request.folds,
            seed=request.seed,
            box_settings=per_pass,
            passes=tuple(
                PassResult(
                    settings=self.choices.passes[place],
                    folder=folder,
                    figure=self._of_pass(figures[place * per_pass : (place + 1) * per_pass]),
                )
                for place, folder in enumerate(folders)
            ),
            given=estimate(of_given),
            tuned=estimate(of_tuned),
            gain=Estimate(value=difference.value, low=low, high=high),
            above_noise=above_noise,
            chosen=self._choice(chosen),
            chosen_in_folds=tuple(self._choice(candidate) for candidate in in_folds),
            taken=taken,
            calibration=self._calibration(
                chosen if taken else self.candidates[0],
                in_folds if taken else [self.candidates[0]] * request.folds,
            ),
        )

    def final(self, tuning: Tuning) -> Config:
        """The given configuration with what was chosen and fitted."""
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
        total = len(self.passes) * len(self.folds.of_image)
        with Steps(self.console) as steps:
            advance = functools.partial(steps.step("images searched"), total)
            for place, images in enumerate(self.passes):
                settings = [
                    self._coarse(self._settings(_Candidate(place, boxes)))
                    for boxes in self.choices.boxes
                ]
                found = find_boxes(images, self.judged, settings, advance)
                figures += [self.measure(boxes) for boxes in found]
        return figures

    def _of_pass(self, figures: Sequence[Figure]) -> float:
        """The held-out figure where only box settings are chosen, on the search's maps."""
        values = [
            float(figures[index](self.folds.only(fold))[0, 0])
            for fold, index in enumerate(best_of_folds(figures, self.folds))
        ]
        return float(np.nanmean(values))

    def _choice(self, candidate: _Candidate) -> Choice:
        """What a candidate changes."""
        given = self.request.config
        wanted = {**self.choices.passes[candidate.place], **candidate.boxes}
        return {
            key: value for key, value in wanted.items() if changed(given, {key: value}) != given
        }

    def _settings(self, candidate: _Candidate) -> BoxSettings:
        return changed(self.request.config, candidate.boxes).boxes

    def _coarse(self, settings: BoxSettings) -> BoxSettings:
        if "boxes.resolution" in self.choices.boxes[-1]:
            return settings
        resolution = min(settings.resolution or SEARCH_RESOLUTION, SEARCH_RESOLUTION)
        return settings.model_copy(update={"resolution": resolution})

    def _exact(self, candidate: _Candidate, ranks: Callable[[int], bool]) -> list[FoundBox]:
        """The boxes of a candidate as annotating would make them, up to 8 bits."""
        images = self.passes[candidate.place]
        (found,) = find_boxes(images, ranks, [self._settings(candidate)])
        return found

    def _held_out(
        self, in_folds: Sequence[_Candidate], ranks: Callable[[int], bool]
    ) -> list[FoundBox]:
        """The boxes of each image by the settings that were chosen without it."""
        result: list[FoundBox] = []
        for fold, candidate in enumerate(in_folds):
            result += [
                box
                for box in self._exact(candidate, ranks)
                if self.folds.of_image[box.image] == fold
            ]
        return result

    def _calibration(
        self, chosen: _Candidate, in_folds: Sequence[_Candidate]
    ) -> CalibrationResult | Unmeasured:
        boxes = self._held_out(in_folds, _any_rank)
        right = right_of(boxes)
        reason = too_few(right)
        if reason is not None:
            return Unmeasured(reason=reason)
        scores = held_out_probabilities(boxes, self.folds)
        plain = np.array([box.box.score for box in boxes])
        final = self._exact(chosen, _any_rank)
        fitted = fit(traits_of(final), right_of(final))
        return CalibrationResult(
            boxes=len(boxes),
            right=int(right.sum()),
            fitted=CalibrationSettings(**asdict(fitted)),
            calibrated=Score(**asdict(ScoreQuality.of(scores, right))),
            by_chance=error_of_perfect_scores(scores, self.request.seed),
            plain=Score(**asdict(ScoreQuality.of(plain, right))),
        )


def _any_rank(rank: int) -> bool:
    """Every box that the recipe writes has a score."""
    return rank >= 0
