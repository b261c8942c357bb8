"""Settings chosen where the best are known, where there is nothing to gain, and by chance."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from sklearn.metrics import roc_auc_score

from cambox.boxes import Boxes
from cambox.cams.geometry import MapGeometry
from cambox.cams.score import probability, traits
from cambox.cli import main
from cambox.config import Config, OutputSettings
from cambox.config_cam import BoxSettings, CalibrationSettings
from cambox.config_file import load_config
from cambox.errors import RequestError
from cambox.output.footer import Recipe, recipe_digest
from cambox.output.publish import publish
from cambox.output.rows import ClassScore, Row, StoredMap, table
from cambox.review.evaluate.report import Unmeasured
from cambox.review.rows_with_truth import MappedImages, RowWithTruth
from cambox.review.tune import tune as tune_run
from cambox.review.tune.calibrate import (
    RIGHT,
    fit,
    fold_of_images,
    held_out_probabilities,
    score_quality,
)
from cambox.review.tune.report import Tuning, recipe_text
from cambox.review.tune.settings import space
from cambox.review.tune.tune import TuneRequest, tune
from cambox.sources.shards import Shard

SIDE = 16
IMAGES = 80
GIVEN = 0.2
QUIET = Console(file=io.StringIO())


def cone(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A map that falls off in square steps from its top, and the distance of each cell from it."""
    top = generator.integers(5, SIDE - 5, 2)
    down, across = np.mgrid[:SIDE, :SIDE]
    distance = np.maximum(abs(down - top[0]), abs(across - top[1]))
    return np.maximum(0, 1 - distance / 6).astype(np.float32), distance


def extent(distance: np.ndarray, radius: int) -> list[int]:
    """x_min, y_min, x_max, y_max of the square of cells within a distance."""
    down, across = np.nonzero(distance <= radius)
    return [int(across.min()), int(down.min()), int(across.max()) + 1, int(down.max()) + 1]


class Pass:
    """An output with stored maps, made here, in place of one that a network made.

    Args:
        radius_of: each image's true square.
        boxes_of: of those that are written: each image's square; None: the whole image.
    """

    def __init__(
        self,
        folder: Path,
        radius_of: Callable[[int], int],
        boxes_of: Callable[[int], int] | None = None,
    ) -> None:
        generator = np.random.default_rng(0)
        rows, lines = [], []
        corners = np.tile([0, 0, SIDE, SIDE], (IMAGES, 1))
        for number in range(IMAGES):
            score_map, distance = cone(generator)
            stored = StoredMap.of(number % 3, 0, score_map)
            rows.append(
                Row(
                    f"image-{number:03d}", "a.tar", number, "ok", None, SIDE, SIDE,
                    (number % 3,), (ClassScore(0, 1, 0.5),), (stored,),
                )
            )  # fmt: skip
            lines.append([f"image-{number:03d}.jpg", *extent(distance, radius_of(number))])
            if boxes_of is not None:
                corners[number] = extent(distance, boxes_of(number))
        sections = {name: {} for name in ("input", "cam", "boxes")}
        settings = {"model": {"input_size": [SIDE, SIDE]}, "output": {"store_maps": True}}
        sections["cam"] = {"zoom": boxes_of is not None}
        text = json.dumps(settings | sections)
        recipe = Recipe(text, ("a", "b", "c"), recipe_digest(text, ("a", "b", "c")))
        output = OutputSettings(uri=str(folder), store_maps=True)
        # One box of each map, as the passes of tune have them.
        places = np.arange(IMAGES)
        boxes = Boxes.of(corners, image=places, class_id=places % 3, class_score=0.5, score=0.5)
        rows_of_shard = table(rows, boxes, recipe.class_names, with_maps=True)
        publish(rows_of_shard, Shard("a.tar", 1, "x"), recipe, output)
        self.folder = str(folder / recipe.folder)
        self.truth = folder.parent / f"{folder.name}.csv"
        with self.truth.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "x_min", "y_min", "x_max", "y_max"])
            writer.writerows(lines)


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Config, Tuning]]:
    def run(radius_of: Callable[[int], int], **request: object) -> tuple[Config, Tuning]:
        made = Pass(tmp_path / "pass", radius_of)
        monkeypatch.setattr(tune_run, "_annotate", lambda *_: made.folder)
        config = Config.model_validate(
            {
                "input": {"shards": "a.tar"},
                "model": {"name": "resnet18"},
                "cam": {"classes": "label"},
                "boxes": {"threshold": GIVEN, "percentile": 100, "interpolation": "bilinear"},
                "output": {"uri": "out"},
            }
        )
        wanted = TuneRequest(config=config, truth=str(made.truth), work=str(tmp_path))
        return tune(replace(wanted, **request), QUIET)  # type: ignore[arg-type]

    return run


def test_the_best_threshold_is_found_where_it_is_known(
    tuned: Callable[..., tuple[Config, Tuning]],
) -> None:
    # Cells within 1 of the top hold 1 and 5/6, the next 4/6: a threshold from 4/6 to 5/6 gives
    # the true square of 3 x 3; the next larger one, 5 x 5, has an IoU of 9 / 25 with it.
    config, tuning = tuned(lambda number: 1)
    assert tuning.given.value == 0
    assert tuning.tuned.value == 1
    assert (tuning.gain.value, tuning.above_noise, tuning.taken) == (1, True, True)
    assert 4 / 6 <= config.boxes.threshold < 5 / 6
    assert config.boxes.percentile == 100
    # All boxes are right with it, so there is nothing that a score could tell.
    assert isinstance(tuning.calibration, Unmeasured)
    assert "80 of 80 boxes are right" in tuning.calibration.reason


ZOOMING = """
input: {shards: elsewhere}
model: {name: vgg11}
cam: {classes: predicted, top_k: 2, zoom: {sides: [64], mirrored: []}}
boxes: {max_boxes: 4, min_score: 0.2}
output: {uri: elsewhere}
"""


@pytest.mark.parametrize("right", [True, False])
def test_another_recipe_is_taken_where_its_boxes_are_right_more_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    """Maps and thresholds find half of the squares; what zooms wrote all of them, or none."""
    half = [number % 2 for number in range(IMAGES)]
    given = Pass(tmp_path / "given", lambda number: 1 + 2 * half[number])
    zoomed = Pass(
        tmp_path / "zoomed",
        lambda number: 1,
        lambda number: 1 + 2 * half[number] if right else 8,
    )
    asked: list[dict] = []

    def annotate(_: TuneRequest, choice: dict, __: Console) -> str:
        asked.append(choice)
        return zoomed.folder if choice else given.folder

    monkeypatch.setattr(tune_run, "_annotate", annotate)
    other = tmp_path / "zooming.yaml"
    other.write_text(ZOOMING)
    document = {
        "input": {"shards": "a.tar"},
        "model": {"name": "resnet18", "input_size": 64},
        "cam": {"classes": "label", "top_k": 3},
        "boxes": {"threshold": GIVEN, "percentile": 100, "interpolation": "bilinear"},
        "output": {"uri": "out"},
    }
    request = TuneRequest(
        config=Config.model_validate(document),
        truth=str(given.truth),
        work=str(tmp_path),
        beside=(str(other),),
    )
    config, tuning = tune(request, QUIET)
    assert asked == [{}, {"recipe": str(other)}]
    assert [one.settings for one in tuning.passes] == asked
    assert tuning.passes[0].figure == pytest.approx(0.5, abs=0.1)
    assert tuning.passes[1].figure == (1.0 if right else 0.0)
    # Images, classifier and wanted classes stay; its input, maps and boxes are the recipe's.
    assert (config.model.name, config.cam.top_k, config.input.shards) == ("resnet18", 3, ["a.tar"])
    assert config.cam.classes == "label"
    if right:
        assert tuning.chosen == {"recipe": str(other)}
        assert tuning.tuned.value == 1
        assert config.cam.zoom is not None
        assert config.model.input_size is None
        assert (config.boxes.max_boxes, config.boxes.min_score) == (4, 0.2)
        assert isinstance(tuning.calibration, Unmeasured)
        assert "cam.zoom.agreement" in tuning.calibration.reason
    else:
        assert "recipe" not in tuning.chosen
        assert config.cam.zoom is None
    # What is written is a configuration, and the same one.
    path = tmp_path / "tuned.yaml"
    path.write_text(recipe_text(config, tuning))
    assert load_config(path) == config


def test_a_recipe_that_is_none_is_said_at_once(
    tuned: Callable[..., tuple[Config, Tuning]],
) -> None:
    with pytest.raises(RequestError, match="name a configuration file, or one of"):
        tuned(lambda number: 1, beside=("scene",))


def test_where_the_given_settings_are_best_nothing_is_changed(
    tuned: Callable[..., tuple[Config, Tuning]],
) -> None:
    # Cells above 0.2 are those within 4 of the top.
    config, tuning = tuned(lambda number: 4, force=True)
    assert tuning.given.value == 1
    assert (tuning.gain.value, tuning.above_noise, tuning.taken) == (0, False, False)
    assert tuning.chosen == {}
    assert (config.boxes.threshold, config.boxes.percentile) == (GIVEN, 100)


def test_a_gain_by_chance_alone_is_not_reported(
    tuned: Callable[..., tuple[Config, Tuning]],
) -> None:
    # Which square is the true one is drawn for each image, so the squares of the given threshold
    # and of another one are right equally often elsewhere; on any sample one of them is ahead.
    coins = np.random.default_rng(3).permutation(np.arange(IMAGES) < 0.55 * IMAGES)
    config, tuning = tuned(lambda number: 1 if coins[number] else 4)
    assert tuning.chosen["boxes.threshold"] > GIVEN
    assert not tuning.above_noise
    assert not tuning.taken
    assert config.boxes.threshold == GIVEN
    assert isinstance(tuning.gain.low, float)
    assert tuning.gain.low <= 0
    assert "not above noise" in recipe_text(config, tuning)
    forced, _ = tuned(lambda number: 1 if coins[number] else 4, force=True)
    assert forced.boxes.threshold == tuning.chosen["boxes.threshold"]


def test_the_written_recipe_loads_as_it_was_and_is_the_same_each_time(
    tuned: Callable[..., tuple[Config, Tuning]], tmp_path: Path
) -> None:
    def mixed(number: int) -> int:
        return 1 if number % 5 < 3 else 4

    config, tuning = tuned(mixed, objective=None)
    again = tuned(mixed, objective=None)
    assert recipe_text(config, tuning) == recipe_text(*again)
    assert not isinstance(tuning.calibration, Unmeasured)
    assert tuning.calibration.boxes == IMAGES
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(config, tuning))
    assert load_config(path) == config
    assert load_config(path).boxes.calibration == tuning.calibration.fitted
    assert set(yaml.safe_load(path.read_text())) == set(Config.model_fields)


def boxes_of_one_class(count: int, generator: np.random.Generator) -> Boxes:
    """Boxes of an image each, corners as shares."""
    low = generator.random((count, 2)) * 0.5
    corners = np.hstack([low, low + generator.random((count, 2)) * 0.5])
    inside, outside, class_score = generator.random((3, count))
    places = np.arange(count)
    return Boxes.of(
        corners,
        image=places,
        class_id=0,
        rank=1,
        component=places % 3 == 0,
        class_score=class_score,
        score=inside,
        outside=outside,
    )


def test_a_calibration_recovers_probabilities_that_are_known() -> None:
    generator = np.random.default_rng(0)
    known = CalibrationSettings(intercept=-1.0, class_logit=0.5, contrast=2.0, area=4.0, later=-1.0)
    boxes = boxes_of_one_class(6000, generator)
    truth = probability(known, traits(boxes))
    right = generator.random(len(boxes)) < truth
    fitted = fit(traits(boxes), right)
    assert fitted.class_logit == pytest.approx(0.5, abs=0.15)
    assert fitted.contrast == pytest.approx(2.0, abs=0.4)
    assert fitted.later == pytest.approx(-1.0, abs=0.3)
    # The folds' own predictions, against the probabilities that the boxes were drawn with.
    folds = fold_of_images(len(boxes), 5, 0)
    scores = held_out_probabilities(traits(boxes), right, folds)
    assert np.abs(scores - truth).mean() < 0.03
    quality = score_quality(scores, right)
    assert quality.error < 0.04
    assert quality.auc == pytest.approx(roc_auc_score(right, truth), abs=0.01)


def test_a_held_out_score_knows_nothing_of_its_own_boxes() -> None:
    generator = np.random.default_rng(0)
    boxes = boxes_of_one_class(400, generator)
    right = generator.random(len(boxes)) < 0.5
    folds = fold_of_images(len(boxes), 5, 0)
    scores = held_out_probabilities(traits(boxes), right, folds)
    assert roc_auc_score(right, scores) == pytest.approx(0.5, abs=0.08)


def test_a_box_is_right_by_a_true_box_of_its_own_image_and_class() -> None:
    def row(key: str, size: tuple[int, int], class_id: int) -> RowWithTruth:
        true = Boxes.of([[0, 0, size[1] / 2, size[0]]], class_id=class_id)
        return RowWithTruth(key, "ok", size, (), None, Boxes.of(()), true)

    # In the order of the keys "a" is the image 0.
    images = MappedImages(
        (row("b", (10, 20), 1), row("a", (30, 40), 2)), MapGeometry((8, 8))
    ).by_key()
    half = np.tile([0, 0, 0.5, 0.5], (4, 1))
    boxes = Boxes.of(half, image=[0, 0, 1, 1], class_id=[1, 2, 1, 2])
    assert images.in_pixels(boxes).corners[:, 2:].tolist() == [[20, 15]] * 2 + [[10, 5]] * 2
    assert images.overlaps(boxes).tolist() == [0, 0.5, 0.5, 0]
    assert (images.overlaps(boxes) >= RIGHT).tolist() == [False, True, True, False]


def test_what_may_be_tried(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"input": {"shards": "a"}, "model": {"name": "m"}, "output": {"uri": "o"}}
    )
    of_boxes, of_passes = space(
        config, ["cam.refine.steps=[0, 2]", "boxes.resolution=[28]"], [], every_box=False
    )
    assert of_passes == ({}, {"cam.refine.steps": 0}, {"cam.refine.steps": 2})
    assert of_boxes[0] == {}
    assert all(choice["boxes.resolution"] == 28 for choice in of_boxes[1:])
    for wrong, message in (
        ("cam.refine.steps=2", r"expected section\.key=\[value"),
        ("cam.refine.stepz=[2]", "did you mean steps"),
        ("boxes.threshold=[2]", r"--try boxes\.threshold: .*less than or equal to 1"),
        ("output.uri=[a]", "changes no box"),
        ("boxes.min_score=[0.5]", "see cambox evaluate"),
    ):
        with pytest.raises(RequestError, match=message):
            space(config, [wrong], [], every_box=False)


def test_the_command_annotates_once_and_asks_for_enough_boxes(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tune_run, "LEAST_PAIRS", 12)
    monkeypatch.chdir(tmp_path)
    document = {
        "input": {"shards": "elsewhere/*.tar"},
        "model": {"name": "test_resnet", "kwargs": {"num_classes": 10}, "input_size": 64},
        "cam": {"classes": "label", "top_k": 3},
        "output": {"uri": "out"},
        "engine": {"cpus_per_worker": 1},
    }
    Path("config.yaml").write_text(yaml.safe_dump(document))
    lines = [f"picture-{number:02d},0,0,20,20\n" for number in range(12)]
    Path("truth.csv").write_text("image,x_min,y_min,x_max,y_max\n" + "".join(lines))

    def call(*arguments: str) -> tuple[int, str, str]:
        command = ["cambox", "tune", "config.yaml", "--truth", "truth.csv", "--to", "tuned.yaml"]
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    where = ["--shards", str(shards / "*.tar")]
    code, text, _ = call(*where, "--try", "cam.truncate=[true]")
    assert code == 0
    assert "3 shards published" not in text
    assert "pass: cam.truncate=True" in text
    assert "written: tuned.yaml" in text
    written = load_config("tuned.yaml")
    assert written.input.shards == ["elsewhere/*.tar"]
    assert written.output.uri == "out"
    assert len(list(Path("tuning").glob("*/*.parquet"))) == 6
    before = Path("tuned.yaml").read_bytes()
    code, text, _ = call(*where, "--try", "cam.truncate=[true]", "--set", "boxes.threshold=0.35")
    assert code == 0
    assert len(list(Path("tuning").glob("*/*.parquet"))) == 6
    assert Path("tuned.yaml").read_bytes() == before

    monkeypatch.setattr(tune_run, "LEAST_PAIRS", 50)
    for arguments, message in (
        (where, "12 (image, class) pairs in the shards, too few"),
        ([*where, "--objective", "best"], "--objective: 'best' is not one of gt-known, v2, ap"),
        (
            [*where, "--set", "cam.classes=predicted", "--objective", "v2"],
            "--objective v2: cam.classes is predicted",
        ),
        ([*where, "--to", "nowhere/tuned.yaml"], "--to: the folder nowhere does not exist"),
    ):
        code, text, error = call(*arguments)
        assert code == 2
        assert message in error
        assert len(error.splitlines()) == 1
    assert BoxSettings().min_score == 0
