"""New boxes from stored maps: the same as annotating anew, as far as 8 bits can tell."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

import cambox.output.derived
import cambox.whole_image
from cambox.cams.boxes import find_boxes, find_boxes_by_shape
from cambox.cams.geometry import MapGeometry
from cambox.cli import app
from cambox.config import Config
from cambox.config_cam import BoxSettings
from cambox.errors import RequestError
from cambox.output.footer import Footer
from cambox.output.rows import StoredMap
from cambox.rebox.rebox import ReboxSummary, rebox_output
from cambox.rebox.rows import rebox_rows
from cambox.review.evaluate.evaluate import evaluate
from cambox.run import run
from cambox.sources.pack import pack
from cambox.verify.verify import verify

ConfigMaker = Callable[..., Config]
OTHER = (
    "boxes.threshold=0.6",
    "boxes.percentile=100",
    "boxes.resolution=40",
    "boxes.interpolation=bilinear",
    "boxes.max_boxes=2",
    "boxes.min_area=0.002",
)
SIDES = ("x_min", "y_min", "x_max", "y_max")


@pytest.fixture
def annotate(make_config: ConfigMaker) -> Callable[..., Path]:
    def call(*overrides: str) -> Path:
        settings = ("output.store_maps=true", "cam.classes=both", *overrides)
        summary = run(make_config(*settings), Console(file=io.StringIO()))
        assert summary.complete
        return Path(summary.folder)

    return call


@pytest.fixture
def rebox(tmp_path: Path) -> Callable[..., ReboxSummary]:
    return lambda folder, *overrides: rebox_output(str(folder), str(tmp_path / "out2"), overrides)


def rows_of(folder: Path | str) -> list[dict]:
    paths = sorted(Path(folder).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def footer_of(path: Path) -> Footer:
    return Footer.from_metadata(pq.read_metadata(path).metadata)


@pytest.mark.parametrize("shape", ["squashed", "kept"])
def test_rows_are_those_of_an_annotator_whose_maps_have_8_bits(
    shape: str,
    annotate: Callable[..., Path],
    rebox: Callable[..., ReboxSummary],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    kept = (
        f"model.keep_aspect={str(shape == 'kept').lower()}",
        "model.input_size=160",
        "cam.offset=0.4",
    )
    reboxed = rows_of(rebox(annotate(*kept), *OTHER).folder)

    def rounded(score_maps: list[np.ndarray], *rest: Any) -> object:
        stored = [StoredMap.of(0, 0, score_map).restore() for score_map in score_maps]
        return find_boxes_by_shape(stored, *rest)

    monkeypatch.setattr(cambox.whole_image, "find_boxes_by_shape", rounded)
    anew = rows_of(annotate(*kept, *OTHER, f"output.uri={tmp_path}/anew"))
    assert reboxed == anew
    assert sum(len(row["objects"]) for row in anew) > 20


def test_rows_are_close_to_annotating_anew(
    annotate: Callable[..., Path], rebox: Callable[..., ReboxSummary], tmp_path: Path
) -> None:
    before = annotate()
    reboxed = rows_of(rebox(before, *OTHER).folder)
    anew = rows_of(annotate(*OTHER, f"output.uri={tmp_path}/anew"))
    assert reboxed != rows_of(before)
    same, distances = 0, []
    for mine, other in zip(reboxed, anew, strict=True):
        assert {**mine, "objects": None} == {**other, "objects": None}
        if len(mine["objects"]) == len(other["objects"]):
            same += 1
            for one, two in zip(mine["objects"], other["objects"], strict=True):
                # Half a step of 255 moves a box by a cell of the 40 x 40 map, seldom more.
                cell = np.array([mine["width"], mine["height"]] * 2) / 40
                distances += (np.abs([one[side] - two[side] for side in SIDES]) / cell).tolist()
    assert same >= len(anew) - 1
    assert np.quantile(distances, 0.95) <= 1.001


def test_boxes_follow_from_the_stored_maps_alone(annotate: Callable[..., Path]) -> None:
    path = sorted(annotate().glob("*.parquet"))[0]
    table = pq.read_table(path)
    settings = BoxSettings(threshold=0.7, percentile=80, max_boxes=1, min_area=0.0)
    names = footer_of(path).classes
    reboxed, _ = rebox_rows(table, settings, MapGeometry((64, 64)), names)
    for row, made in zip(table.to_pylist(), reboxed.to_pylist(), strict=True):
        expected = []
        for stored in row["maps"]:
            steps = np.frombuffer(stored["values"], np.uint8).astype(np.float32)
            values = np.float32(stored["low"]) + steps / 255 * np.float32(
                stored["high"] - stored["low"]
            )
            score_map = values.reshape(1, stored["height"], stored["width"])
            box = find_boxes(score_map, (64, 64), settings).boxes
            assert len(box) == 1
            expected.append((stored["class_id"], stored["rank"], 0, box.touches_edge[0], box))
        objects = made["objects"]
        assert [
            (one["class_id"], one["rank"], one["component"], one["touches_edge"]) for one in objects
        ] == [one[:4] for one in expected]
        for one, (*_, box) in zip(objects, expected, strict=True):
            assert one["class_name"] == names[one["class_id"]]
            assert one["box_score"] == pytest.approx(box.score[0], abs=1e-6)
            assert one["x_max"] == pytest.approx(box.corners[0, 2] * row["width"], abs=1e-4)
            assert one["y_min"] == pytest.approx(box.corners[0, 1] * row["height"], abs=1e-4)
        probabilities = {one["class_id"]: one["probability"] for one in row["classes"]}
        for one in objects:
            if one["class_id"] in probabilities:
                assert one["class_score"] == probabilities[one["class_id"]]


def test_the_output_is_sound_says_its_origin_and_can_be_evaluated(
    annotate: Callable[..., Path], rebox: Callable[..., ReboxSummary], tmp_path: Path
) -> None:
    source = annotate()
    summary = rebox(source, "boxes.threshold=0.5")
    folder = Path(summary.folder)
    verification = verify(str(folder.parent), against_input=True)
    assert verification.problems == ()
    assert (verification.files, verification.rows) == (3, 12)
    assert {path.name for path in folder.iterdir()} == {path.name for path in source.iterdir()}
    before, after = (footer_of(sorted(one.iterdir())[0]) for one in (source, folder))
    assert after.shard == before.shard
    assert after.classes == before.classes
    recipe, old = json.loads(after.recipe), json.loads(before.recipe)
    assert recipe.pop("rebox") == {"maps_of": before.recipe_digest}
    assert recipe.pop("boxes") == old.pop("boxes") | {"threshold": 0.5}
    assert recipe == old
    assert folder.name == after.recipe_digest[:16] != source.name
    truth = tmp_path / "truth.csv"
    lines = [f"{row['key']},0,0,{row['width']},{row['height']}" for row in rows_of(source)]
    truth.write_text("\n".join(["image,x_min,y_min,x_max,y_max", *lines]))
    assert evaluate(str(folder), str(truth), resamples=100).counts.images == 12


def test_steps_in_between_leave_no_trace(
    annotate: Callable[..., Path], rebox: Callable[..., ReboxSummary]
) -> None:
    source = annotate()
    between = rebox(source, "boxes.threshold=0.9", "boxes.max_boxes=1")
    direct = rebox(source, "boxes.threshold=0.5")
    again = rebox(between.folder, "boxes.threshold=0.5", "boxes.max_boxes=3")
    assert again.recipe == direct.recipe
    rows = rows_of(direct.folder)
    assert [row["objects"] for row in rows] == [row["objects"] for row in rows_of(again.folder)]


def test_a_second_run_does_nothing_and_a_changed_source_redoes_its_own(
    make_config: ConfigMaker,
    rebox: Callable[..., ReboxSummary],
    pictures: Path,
    tmp_path: Path,
) -> None:
    pack(pictures, tmp_path / "mine", pictures / "labels.csv", samples_per_shard=4)
    config = make_config(f"input.shards=[{tmp_path}/mine/*.tar]", "output.store_maps=true")
    source = run(config, Console(file=io.StringIO())).folder
    first = rebox(source, "boxes.threshold=0.5")
    assert (first.published, first.done_before, first.made.rows) == (3, 0, 12)
    files = sorted(Path(first.folder).iterdir())
    times = [path.stat().st_mtime_ns for path in files]
    second = rebox(source, "boxes.threshold=0.5")
    assert (second.published, second.done_before) == (0, 3)
    assert [path.stat().st_mtime_ns for path in files] == times

    # One shard gets another picture; one file of the new output is lost, one is damaged.
    shard = tmp_path / "mine" / "shard-000001.tar"
    pack(pictures, tmp_path / "other", pictures / "labels.csv", samples_per_shard=3)
    shard.write_bytes((tmp_path / "other" / "shard-000001.tar").read_bytes())
    run(config, Console(file=io.StringIO()))
    third = rebox(source, "boxes.threshold=0.5")
    assert (third.published, third.done_before, third.made.rows) == (1, 2, 3)
    assert [path.stat().st_mtime_ns == time for path, time in zip(files, times, strict=True)] == [
        True,
        False,
        True,
    ]
    files[0].unlink()
    files[2].write_bytes(files[2].read_bytes()[:-9])
    assert rebox(source, "boxes.threshold=0.5").published == 2
    assert verify(first.folder).ok
    sorted(Path(source).iterdir())[0].unlink()
    with pytest.raises(RequestError, match="is not what the last run left there"):
        rebox(source, "boxes.threshold=0.5")
    (tmp_path / "mine" / "shard-000000.tar").unlink()
    run(config, Console(file=io.StringIO()))
    assert rebox(source, "boxes.threshold=0.5").without_source == 1


def test_a_score_that_the_source_does_not_tell_is_zero_and_counted(
    make_config: ConfigMaker, rebox: Callable[..., ReboxSummary]
) -> None:
    config = make_config("output.store_maps=true", "cam.classes=label", "cam.top_k=1")
    everything = run(config, Console(file=io.StringIO()))
    config = make_config(
        "output.store_maps=true", "cam.classes=label", "cam.top_k=1", "boxes.min_area=1.0"
    )
    nothing = run(config, Console(file=io.StringIO()))
    assert nothing.boxes == 0
    true = [box["class_score"] for row in rows_of(everything.folder) for box in row["objects"]]
    summary = rebox(nothing.folder, "boxes.min_area=0.01")
    assert summary.made.boxes == len(true)
    rows = rows_of(summary.folder)
    beyond = [
        box["class_score"]
        for row in rows
        for box in row["objects"]
        if box["class_id"] != row["classes"][0]["class_id"]
    ]
    assert summary.made.unknown_scores == len(beyond) > 0
    assert set(beyond) == {0.0}
    assert verify(summary.folder).ok
    # Where the label had boxes before, they tell it.
    summary = rebox(everything.folder, "boxes.min_area=0.0101")
    assert summary.made.unknown_scores == 0
    kept = [box["class_score"] for row in rows_of(summary.folder) for box in row["objects"]]
    assert set(kept) <= set(true)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cam.top_k=3", "--set cam.top_k: stored maps are enough for the keys of boxes only"),
        ("output.uri=x", "--set output.uri: stored maps"),
        ("boxes.treshold=0.3", "boxes.treshold: unknown key; did you mean threshold"),
        ("boxes.threshold=3", "boxes.threshold: .* got 3"),
        ("boxes", "expected section.key=value"),
    ],
)
def test_what_needs_an_image_is_refused(
    annotate: Callable[..., Path],
    rebox: Callable[..., ReboxSummary],
    override: str,
    message: str,
) -> None:
    with pytest.raises(RequestError, match=message):
        rebox(annotate(), override)


def test_without_maps_it_says_how_to_get_them(
    annotate: Callable[..., Path], rebox: Callable[..., ReboxSummary]
) -> None:
    with pytest.raises(RequestError, match=r"no maps .* output.store_maps=true"):
        rebox(annotate("output.store_maps=false"))


@pytest.mark.parametrize("pay_seconds", [math.inf, 0.0], ids=["one process", "several"])
def test_a_damaged_file_is_given_up_and_the_others_are_made(
    pay_seconds: float,
    annotate: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cambox.output.derived, "PROCESSES_PAY_SECONDS", pay_seconds)
    source = annotate()
    path = sorted(source.iterdir())[1]
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    arguments = ["rebox", str(source), "--to", str(tmp_path / "out2"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["files"]["published"] == 2
    (given_up,) = document["files"]["given_up"]
    assert given_up["file"] == str(path)
    assert f"given up: {path}: " in result.stderr
    assert len(list(Path(document["output"]).iterdir())) == 2
