"""``cambox evaluate`` end to end: what it writes, what it says, and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import fsspec
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

import cambox.review.tune.calibrate
from cambox.cli import main
from cambox.config_file import load_config
from cambox.errors import RequestError
from cambox.review.evaluate.evaluate import evaluate
from cambox.review.evaluate.report import Evaluation, HeldOutCalibration, Unmeasured
from cambox.review.evaluate.show import evaluation_figure
from cambox.run import run
from cambox.sources.pack import pack

Command = Callable[..., tuple[int, str, str]]
SIDES = ("x_min", "y_min", "x_max", "y_max")


def annotate(folder: Path, shards: Path, *overrides: str) -> Path:
    """The recipe's folder that a tiny network with random weights makes of the pictures."""
    document = {
        "input": {"shards": [str(shards / "*.tar")]},
        "model": {"name": "test_resnet", "kwargs": {"num_classes": 10}, "input_size": 64},
        "cam": {"top_k": 3, "classes": "both"},
        "boxes": {"threshold": 0.6},
        "output": {"uri": str(folder / "out"), "store_maps": True},
        "engine": {"cpus_per_worker": 1},
    }
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    summary = run(load_config(path, overrides), Console(file=io.StringIO()))
    assert summary.complete
    return Path(summary.folder)


@pytest.fixture(scope="module")
def torn_shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("torn")
    shutil.copytree(pictures, folder / "images")
    whole = (pictures / "picture-00.jpg").read_bytes()
    (folder / "images" / "torn.jpg").write_bytes(whole[:60])
    with (folder / "images" / "labels.csv").open("a") as file:
        file.write("torn.jpg,4\n")
    pack(folder / "images", folder / "shards", folder / "images" / "labels.csv", 5)
    return folder / "shards"


@pytest.fixture(scope="module")
def output(torn_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotate(tmp_path_factory.mktemp("made"), torn_shards)


@pytest.fixture(scope="module")
def truth(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of most pictures: those of even number by the left half, the others by the whole frame."""
    path = tmp_path_factory.mktemp("truth") / "boxes.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *SIDES])
        for number, row in enumerate(rows_of(output)):
            if row["key"] == "torn":
                writer.writerow(["torn.jpg", 0, 0, 20, 20])
            elif number != 3:
                width = row["width"] / 2 if number % 2 == 0 else row["width"]
                writer.writerow([f"{row['key']}.jpg", 0, 0, width, row["height"]])
        writer.writerow(["elsewhere.jpg", 0, 0, 9, 9])
    return path


def rows_of(output: Path) -> list[dict]:
    rows = [row for path in output.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: row["key"])


@pytest.fixture
def cambox_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["cambox", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def overlap(box: dict, true: dict) -> float:
    sides = [float(true[side]) for side in SIDES]
    width = min(box["x_max"], sides[2]) - max(box["x_min"], sides[0])
    height = min(box["y_max"], sides[3]) - max(box["y_min"], sides[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (box["x_max"] - box["x_min"]) * (box["y_max"] - box["y_min"])
    return width * height / (areas + (sides[2] - sides[0]) * (sides[3] - sides[1]) - width * height)


def test_the_report_has_the_figures_of_the_rows_and_says_what_is_missing(
    output: Path, truth: Path, tmp_path: Path, cambox_evaluate: Command
) -> None:
    code, text, _ = cambox_evaluate(output.parent, "--truth", truth, "--resamples", "200")
    assert code == 0
    document = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert document["schema_version"] == 1
    report = Evaluation.model_validate(document)
    picture = cv2.imread(str(tmp_path / "evaluation" / "evaluation.png"))
    assert picture.shape[1] > 1000
    assert picture.std() > 5
    figure = evaluation_figure(report)
    figure.canvas.draw()
    legends = [(axes, legend) for axes in figure.axes if (legend := axes.get_legend())]
    assert legends
    for axes, legend in legends:
        assert not legend.get_window_extent().overlaps(axes.get_window_extent()), "over points"

    assert text.splitlines()[0] == report.verdict()
    counts = report.counts
    assert (counts.rows, counts.images, counts.truth_without_row) == (13, 12, 1)
    assert (counts.rows_without_truth, counts.not_ok) == (1, {"unreadable": 1})
    for remark in (
        "remark: 1 images of the truth have no row in the output and are left out: elsewhere.jpg",
        "remark: 1 rows are of images that the truth does not name, left out",
        "remark: 1 images are unreadable and count as missed: torn",
    ):
        assert remark in text

    with truth.open() as file:
        true = {line["image"].removesuffix(".jpg"): line for line in csv.DictReader(file)}
    judged = [row for row in rows_of(output) if row["key"] in true]
    known = first = 0
    for row in judged:
        mine = [box for box in row["objects"] if box["rank"] == 0 and box["component"] == 0]
        hit = bool(mine) and overlap(mine[0], true[row["key"]]) >= 0.5
        known += hit
        first += hit and row["classes"][0]["class_id"] == row["labels"][0]
    assert isinstance(report.gt_known, tuple)
    assert isinstance(report.top1, tuple)
    assert 0 < known < 12
    assert report.gt_known[1].share.output.value == pytest.approx(known / 12)
    assert report.top1[1].share.output.value == pytest.approx(first / 12)
    assert f"{100 * known / 12:.1f} [" in text
    # The centred box has IoU 0.64 with the whole frame, and 0.44 with its left half.
    whole = sum(float(true[row["key"]]["x_max"]) == row["width"] for row in judged if row["width"])
    assert report.gt_known[1].share.centre_box.value == pytest.approx(whole / 12)
    for entry in report.gt_known:
        interval = entry.share.output
        assert interval.low is not None
        assert interval.high is not None
        assert interval.value is not None
        assert interval.low <= interval.value <= interval.high

    given, every = report.detection
    assert given.boxes_of == "given labels"
    assert every.boxes_of == "given labels and predicted classes"
    assert given.boxes == sum(box["rank"] == 0 for row in judged for box in row["objects"])
    assert every.boxes == sum(len(row["objects"]) for row in judged)
    assert sum(entry.images for entry in report.classes) == 12
    assert len(report.groups) == 9


def test_a_calibration_is_judged_on_the_boxes_of_the_rows(
    torn_shards: Path, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("boxes.max_boxes=2", "boxes.suppress_overlap=0.5")
    whole, output = (
        annotate(tmp_path / str(count), torn_shards, *settings[:count]) for count in (1, 2)
    )
    too_few = evaluate(str(output), str(truth), resamples=10).held_out_calibration
    assert isinstance(too_few, Unmeasured)
    assert "30 right and as many wrong ones" in too_few.reason
    monkeypatch.setattr(cambox.review.tune.calibrate, "LEAST_OF_A_KIND", 3)
    held_out = evaluate(str(output), str(truth), resamples=10).held_out_calibration
    assert isinstance(held_out, HeldOutCalibration)
    with truth.open() as file:
        true = {line["image"].removesuffix(".jpg"): line for line in csv.DictReader(file)}
    judged = [row for row in rows_of(output) if row["key"] in true]
    boxes = [(box, true[row["key"]]) for row in judged for box in row["objects"]]
    assert held_out.boxes == len(boxes)
    # A true box without a class is of its image's labels.
    assert held_out.right == sum(
        box["rank"] == 0 and overlap(box, of_truth) >= 0.5 for box, of_truth in boxes
    )
    assert len(boxes) < sum(len(row["objects"]) for row in rows_of(whole) if row["key"] in true)
    assert 0 < held_out.error < 1


def test_a_calibration_is_judged_on_dropped_boxes_too(
    torn_shards: Path, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A least score says which boxes are written, and not which a calibration is fitted to."""
    monkeypatch.setattr(cambox.review.tune.calibrate, "LEAST_OF_A_KIND", 3)

    with truth.open() as file:
        named = {line["image"].removesuffix(".jpg") for line in csv.DictReader(file)}

    def annotated(top_k: int, least: float) -> tuple[list[dict], HeldOutCalibration | Unmeasured]:
        settings = (f"cam.top_k={top_k}", f"boxes.min_score={least}")
        folder = annotate(tmp_path / f"{top_k} {least}", torn_shards, *settings)
        report = evaluate(str(folder), str(truth), resamples=10)
        return [row for row in rows_of(folder) if row["key"] in named], report.held_out_calibration

    # Every class is among the predicted ones, so each map's class score is known.
    every, expected = annotated(10, 0)
    none, found = annotated(10, 1)
    assert isinstance(expected, HeldOutCalibration)
    assert expected.boxes == sum(len(row["objects"]) for row in every) > 50
    assert not any(row["objects"] for row in none)
    assert found == expected
    # Of a label beyond the top 3 it is not, once its boxes are dropped; such a map is left out.
    every, _ = annotated(3, 0)
    _, left = annotated(3, 1)
    known = [
        box["class_id"] in {entry["class_id"] for entry in row["classes"]}
        for row in every
        for box in row["objects"]
    ]
    assert 0 < sum(known) < len(known)
    assert isinstance(left, Unmeasured)
    assert f"of {sum(known)} boxes are right" in left.reason


def test_the_best_threshold_is_at_least_as_good_as_the_recipe_s(output: Path, truth: Path) -> None:
    # At the recipe's own threshold the stored maps give its own boxes again, but for what the 8
    # bits of a cell change: one image at most.
    report = evaluate(str(output), str(truth), resamples=100)
    assert not isinstance(report.max_box, Unmeasured)
    assert not isinstance(report.gt_known, Unmeasured)
    for curve, best, known in zip(
        report.max_box.curves, report.max_box.max_box_acc, report.gt_known, strict=True
    ):
        recipe = curve.thresholds.index(0.6)
        assert curve.largest[recipe] == pytest.approx(known.share.output.value, abs=1.1 / 12)
        assert best.share.output.value == max(curve.largest)
        assert best.threshold == curve.thresholds[curve.largest.index(max(curve.largest))]
        assert all(more >= one for more, one in zip(curve.any, curve.largest, strict=True))


def test_coco_json_and_a_url_give_the_same_figures(
    output: Path, truth: Path, tmp_path: Path
) -> None:
    with truth.open() as file:
        lines = [line for line in csv.DictReader(file) if line["image"] != "elsewhere.jpg"]
    labels = {row["key"]: row["labels"][0] for row in rows_of(output)}
    annotations = []
    for number, line in enumerate(lines):
        x_min, y_min, x_max, y_max = (float(line[side]) for side in SIDES)
        label = labels[line["image"].removesuffix(".jpg")]
        bbox = [x_min, y_min, x_max - x_min, y_max - y_min]
        annotations.append({"image_id": number, "category_id": label, "bbox": bbox})
    document = {
        "images": [{"id": number, "file_name": line["image"]} for number, line in enumerate(lines)],
        "annotations": annotations,
        "categories": [{"id": label, "name": str(label)} for label in set(labels.values())],
    }
    (tmp_path / "truth.json").write_text(json.dumps(document))
    memory = fsspec.filesystem("memory")
    for path in output.glob("*.parquet"):
        memory.pipe_file(f"/evaluated/{output.name}/{path.name}", path.read_bytes())
    first = evaluate(str(output), str(truth), 100, sweep_thresholds=False)
    second = evaluate(
        "memory://evaluated", str(tmp_path / "truth.json"), 100, sweep_thresholds=False
    )
    for name in ("gt_known", "top1", "corloc", "detection", "calibration", "classes"):
        assert getattr(first, name) == getattr(second, name)


def test_what_cannot_be_measured_is_said_with_the_remedy(
    torn_shards: Path, truth: Path, tmp_path: Path, cambox_evaluate: Command
) -> None:
    changes = ["cam.classes=predicted", "cam.ranks=[2]", "output.store_maps=false"]
    folder = annotate(tmp_path / "made", torn_shards, *changes)
    code, text, _ = cambox_evaluate(folder, "--truth", truth, "--to", "there", "--json")
    assert code == 0
    report = Evaluation.model_validate_json(text)
    for figure, remedy in (
        (report.gt_known, "--set cam.classes=both"),
        (report.corloc, "--set cam.classes=both"),
        (report.top1, "--set cam.ranks=null"),
    ):
        assert isinstance(figure, Unmeasured)
        assert remedy in figure.reason
    (detection,) = report.detection
    assert detection.boxes_of == "predicted classes"
    assert (tmp_path / "there" / "evaluation.png").stat().st_size > 1000

    folder = annotate(tmp_path / "second", torn_shards, "output.store_maps=false")
    code, text, _ = cambox_evaluate(folder, "--truth", truth)
    assert code == 0
    assert "--set output.store_maps=true" in text


def test_only_maps_need_a_compiler_and_nothing_the_networks_library(
    torn_shards: Path, output: Path, truth: Path, tmp_path: Path
) -> None:
    without_maps = annotate(tmp_path / "made", torn_shards, "output.store_maps=false")
    program = (
        "import sys\n"
        "from cambox.review.evaluate.evaluate import evaluate\n"
        "for output in sys.argv[2:]:\n"
        "    evaluate(output, sys.argv[1], resamples=10)\n"
        "    libraries = 'torch torchvision timm ray numba sklearn matplotlib'.split()\n"
        "    print([name for name in libraries if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, truth, without_maps, output],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == ["[]", "['numba', 'sklearn']"]


def test_truth_of_other_classes_than_the_labels_is_counted(output: Path, tmp_path: Path) -> None:
    row = next(row for row in rows_of(output) if row["labels"] == [0])
    path = tmp_path / "classes.csv"
    path.write_text(
        f"image,{','.join(SIDES)},class_index\n{row['key']},0,0,30,30,0\n{row['key']},5,5,30,30,9\n"
    )
    report = evaluate(str(output), str(path), 100)
    assert (report.counts.pairs, report.counts.pairs_without_label) == (2, 1)
    assert any("a class that is no label of the sample" in remark for remark in report.remarks)
    assert report.detection[0].true_boxes == 2


def test_a_wrong_request_is_one_line_and_exit_code_2(
    output: Path, truth: Path, torn_shards: Path, tmp_path: Path, cambox_evaluate: Command
) -> None:
    def says(*arguments: object) -> str:
        code, text, error = cambox_evaluate(*arguments)
        assert code == 2
        assert text == ""
        assert error.startswith("cambox: ")
        assert len(error.splitlines()) == 1
        return error

    strangers = tmp_path / "strangers.csv"
    strangers.write_text("image,x_min,y_min,x_max,y_max\nstranger.png,0,0,9,9\n")
    error = says(output, "--truth", strangers)
    assert "none of the 1 images" in error
    assert "13 rows" in error
    assert "'stranger.png' and 'picture-00'" in error
    assert "with or without the extension" in error

    assert "gone.csv does not exist" in says(output, "--truth", "gone.csv")
    assert "nowhere does not exist" in says("nowhere", "--truth", truth)
    assert "holds nothing of cambox" in says(tmp_path, "--truth", truth)
    (tmp_path / "file").write_text("")
    assert "--to: file cannot be made" in says(output, "--truth", truth, "--to", "file")

    root = tmp_path / "two"
    shutil.copytree(output, root / output.name)
    shutil.copytree(output, root / "0123456789abcdef")
    error = says(root, "--truth", truth)
    assert "holds 2 recipes, and none is latest; name one of them" in error
    assert str(root / output.name) in error
    assert str(root / "0123456789abcdef") in error

    damaged = root / output.name
    path = min(damaged.glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path} is damaged" in says(damaged, "--truth", truth)


def test_a_key_of_two_shards_is_an_error(output: Path, truth: Path, tmp_path: Path) -> None:
    twice = tmp_path / output.name
    shutil.copytree(output, twice)
    path = min(twice.glob("*.parquet"))
    shutil.copy(path, path.with_name(f"other-{path.name}"))
    with pytest.raises(RequestError, match="give the samples keys of their own"):
        evaluate(str(twice), str(truth), 100)
