"""One shard, start to end: every sample has its row, and a shard is published whole or not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from cambox.config import Config
from cambox.engines.local import LocalEngine
from cambox.errors import RequestError
from cambox.models.build import build_network
from cambox.run import run
from cambox.summary import RunSummary
from conftest import ConfigMaker
from makers import write_tar

QUIET = Console(file=io.StringIO())


def annotate(config: Config) -> tuple[RunSummary, list[dict]]:
    summary = run(config, QUIET)
    table = pyarrow.dataset.dataset(summary.folder).to_table()
    return summary, table.sort_by(
        [("shard", "ascending"), ("sample_index", "ascending")]
    ).to_pylist()


def picture(width: int = 48, height: int = 40, seed: int = 0, **options: object) -> bytes:
    grain = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def test_every_picture_has_a_row_with_its_classes_and_boxes(
    make_config: ConfigMaker, pictures: Path
) -> None:
    summary, rows = annotate(make_config())
    assert summary.complete
    assert [row["key"] for row in rows] == [f"picture-{index:02d}" for index in range(12)]
    assert [row["sample_index"] for row in rows] == [0, 1, 2, 3] * 3
    for index, row in enumerate(rows):
        width, height = Image.open(pictures / f"{row['key']}.jpg").size
        assert (row["status"], row["error"]) == ("ok", None)
        assert (row["width"], row["height"]) == (width, height)
        assert row["labels"] == [index % 10]
        assert [entry["rank"] for entry in row["classes"]] == [1, 2, 3]
        chances = [entry["probability"] for entry in row["classes"]]
        assert chances == sorted(chances, reverse=True)
        assert row["objects"]
        chance_of = {entry["class_id"]: entry["probability"] for entry in row["classes"]}
        for box in row["objects"]:
            assert 0 <= box["x_min"] < box["x_max"] <= width
            assert 0 <= box["y_min"] < box["y_max"] <= height
            assert box["class_score"] == chance_of[box["class_id"]]
            assert box["class_name"] == str(box["class_id"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("test_convnext", "frozen", 160),
        ("test_vit", "attention", 160),
        ("efficientvit_b0", "cells", 64),
    ],
)
def test_other_kinds_of_heads_go_the_same_way(
    make_config: ConfigMaker, tmp_path: Path, name: str, kind: str, size: int, precision: str
) -> None:
    model = [f"model.name={name}", f"model.input_size={size}"]
    common = [*model, f"model.precision={precision}", "output.store_maps=true"]
    summary, rows = annotate(make_config(*common))
    assert summary.complete
    assert {row["status"] for row in rows} == {"ok"}
    assert all(len(row["maps"]) == 3 for row in rows)
    assert any(row["objects"] for row in rows)
    footer = next(Path(summary.folder).glob("*.parquet"))
    recipe = json.loads(pyarrow.parquet.read_metadata(footer).metadata[b"cambox.recipe"])
    assert recipe["cam"]["nonlinear_head"] == kind
    if precision == "float32":
        elsewhere = f"output.uri={tmp_path}/alone"
        _, alone = annotate(make_config(*common, "engine.batch_size=1", elsewhere))
        assert_same_rows(rows, alone)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("cam.truncate=true", "cam.truncate"),
        ("cam.shift=0.1", "cam.shift"),
        ("cam.pooling={kind: thresholded}", "cam.pooling"),
        ("cam.shift={global_min: 0.0}", "cam.shift"),
    ],
)
def test_settings_over_pooled_features_are_refused_where_nothing_is_pooled(
    make_config: ConfigMaker, setting: str, key: str
) -> None:
    with pytest.raises(RequestError, match=key):
        run(make_config("model.name=test_vit", "model.input_size=160", setting), QUIET)


def test_rows_do_not_depend_on_the_batch_size(make_config: ConfigMaker, tmp_path: Path) -> None:
    _, small = annotate(make_config("engine.batch_size=1", f"output.uri={tmp_path}/one"))
    _, large = annotate(make_config("engine.batch_size=7", f"output.uri={tmp_path}/seven"))
    assert_same_rows(small, large)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_rows_do_not_depend_on_the_number_of_threads(
    make_config: ConfigMaker, tmp_path: Path, batch_size: int
) -> None:
    """Each batch is computed on one thread, so that the files are equal byte for byte.

    Of nine threads eight run a batch each, which others decode and find the boxes of, as on a GPU;
    of a large batch they take several images at a time.
    """
    files = []
    for threads in (1, 2, 9):
        where = f"output.uri={tmp_path}/{threads}"
        settings = [f"engine.cpus_per_worker={threads}", f"engine.batch_size={batch_size}", where]
        summary, _ = annotate(make_config(*settings, "cam.refine.steps=1"))
        files.append([path.read_bytes() for path in sorted(Path(summary.folder).iterdir())])
    assert len(files[0]) == 3
    assert files[0] == files[1] == files[2]


def assert_same_rows(some: list[dict], others: list[dict]) -> None:
    """The same classes with the same boxes, up to the rounding of sums in another order."""
    for one, other in zip(some, others, strict=True):
        assert [o["class_id"] for o in one["objects"]] == [o["class_id"] for o in other["objects"]]
        for mine, theirs in zip(one["objects"], other["objects"], strict=True):
            for name in ("x_min", "y_min", "x_max", "y_max", "class_score", "box_score"):
                assert mine[name] == pytest.approx(theirs[name], abs=1e-4)


def test_given_labels_get_rank_zero_and_several_each_their_boxes(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    shard = write_tar(
        tmp_path / "several.tar",
        {
            "a.jpg": picture(seed=1),
            "a.json": json.dumps({"tags": [7, 2]}).encode(),
            "b.jpg": picture(seed=2),
            "b.json": json.dumps({"tags": []}).encode(),
            "c.jpg": picture(seed=3),
            "c.json": b"{}",
            "d.jpg": picture(seed=4),
            "d.json": json.dumps({"tags": 10}).encode(),
        },
    )
    settings = (f"input.shards={shard}", "input.labels=json:tags", "boxes.max_boxes=1")
    _, rows = annotate(make_config(*settings, "cam.classes=label"))
    assert [(box["class_id"], box["rank"]) for box in rows[0]["objects"]] == [(7, 0), (2, 0)]
    assert rows[0]["labels"] == [7, 2]
    assert (rows[1]["status"], rows[1]["labels"], rows[1]["objects"]) == ("ok", [], [])
    assert (rows[2]["status"], rows[2]["labels"]) == ("no_label", None)
    assert rows[2]["objects"] == []
    assert rows[2]["classes"]
    assert rows[3]["status"] == "no_label"
    assert "class 10 is beyond the model's 10 classes" in rows[3]["error"]

    _, both = annotate(make_config(*settings, "cam.classes=both"))
    predicted = [entry["class_id"] for entry in both[0]["classes"]]
    expected = [(7, 0), (2, 0)] + [
        (class_id, rank) for rank, class_id in enumerate(predicted, 1) if class_id not in (7, 2)
    ]
    assert [(box["class_id"], box["rank"]) for box in both[0]["objects"]] == expected


def test_ranks_and_probability_choose_among_the_predicted(make_config: ConfigMaker) -> None:
    _, rows = annotate(make_config("cam.ranks=[2]"))
    for row in rows:
        assert {box["class_id"] for box in row["objects"]} == {row["classes"][1]["class_id"]}
    _, none = annotate(make_config("cam.min_probability=1.0"))
    assert all(row["objects"] == [] and row["status"] == "ok" for row in none)


def test_bad_samples_become_rows_with_the_reason(make_config: ConfigMaker, tmp_path: Path) -> None:
    whole = picture(seed=5)
    turned = Image.Exif()
    turned[0x0112] = 6
    shard = write_tar(
        tmp_path / "bad.tar",
        {
            "cut.jpg": whole[: len(whole) // 2],
            "empty.jpg": b"",
            "text.jpg": b"this is not an image",
            "huge.jpg": picture(200, 100),
            "alone.cls": b"3",
            "good.jpg": whole,
            "turned.jpg": picture(60, 30, exif=turned),
        },
    )
    summary, rows = annotate(make_config(f"input.shards={shard}", "input.max_pixels=10000"))
    assert summary.complete
    found = {row["key"]: row for row in rows}
    statuses = {key: row["status"] for key, row in found.items()}
    assert statuses == {
        "cut": "unreadable",
        "empty": "unreadable",
        "text": "unreadable",
        "huge": "too_large",
        "alone": "no_image",
        "good": "ok",
        "turned": "ok",
    }
    for row in rows:
        assert (row["error"] is None) == (row["status"] == "ok")
        if row["status"] != "ok":
            assert (row["width"], row["classes"], row["objects"]) == (None, [], [])
    assert (found["turned"]["width"], found["turned"]["height"]) == (30, 60)
    assert summary.reports[0].statuses == {"unreadable": 3, "too_large": 1, "no_image": 1, "ok": 2}


def test_a_shard_of_bad_samples_or_of_none_is_published_all_the_same(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    write_tar(tmp_path / "all-bad.tar", {f"{n}.jpg": b"bad" for n in range(20)})
    write_tar(tmp_path / "empty.tar", {})
    config = make_config(f"input.shards={tmp_path}/*.tar")
    summary, rows = annotate(config)
    assert len(summary.reports) == 2
    assert [row["status"] for row in rows] == ["unreadable"] * 20
    assert run(config, QUIET).done_before == 2


def test_a_bad_shard_harms_only_itself(
    make_config: ConfigMaker, tmp_path: Path, shards: Path
) -> None:
    source = shards / "shard-000000.tar"
    whole = source.read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar").write_text("not a tar at all")
    (tmp_path / "whole.tar").write_bytes(whole)
    summary, rows = annotate(make_config(f"input.shards={tmp_path}/*.tar"))
    assert not summary.complete
    assert {Path(failure.shard.uri).name for failure in summary.failures} == {"cut.tar", "text.tar"}
    assert all(failure.attempts == 1 for failure in summary.failures)
    assert {Path(row["shard"]).name for row in rows} == {"whole.tar"}
    assert len(rows) == 4
    assert len(list(Path(summary.folder).iterdir())) == 1


def test_finished_work_is_not_done_again_and_changes_redo_what_they_touch(
    make_config: ConfigMaker, tmp_path: Path, shards: Path
) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    for path in shards.glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    config = make_config(f"input.shards={folder}/*.tar")
    first = run(config, QUIET)
    stamps = {path: path.stat().st_mtime_ns for path in Path(first.folder).iterdir()}
    again = run(config, QUIET)
    assert (len(again.reports), again.done_before) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in Path(first.folder).iterdir()} == stamps

    changed = sorted(folder.iterdir())[1]
    write_tar(changed, {"new.jpg": picture(seed=9)})
    third = run(config, QUIET)
    assert [Path(report.shard.uri).name for report in third.reports] == [changed.name]
    assert len(list(Path(first.folder).iterdir())) == 3

    other = run(make_config(f"input.shards={folder}/*.tar", "boxes.threshold=0.5"), QUIET)
    assert other.folder != first.folder
    assert len(other.reports) == 3


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("engine.batch_size=5", False),
        ("engine.max_attempts=9", False),
        ("input.max_pixels=5000", True),
        ("cam.truncate=true", True),
        ("cam.shift=0.1", True),
        ("boxes.min_area=0.2", True),
        ("model.mean=[0, 0, 0]", True),
        ("model.activation=sigmoid", True),
        ("model.precision=bfloat16", True),
        ("output.store_maps=true", True),
        ("output.uri=elsewhere", False),
    ],
)
def test_the_digest_covers_what_shapes_rows_and_nothing_else(
    make_config: ConfigMaker, override: str, changes: bool
) -> None:
    plain = LocalEngine(make_config()).recipe.digest
    assert (LocalEngine(make_config(override)).recipe.digest != plain) is changes


def test_the_digest_covers_the_weights(make_config: ConfigMaker, tmp_path: Path) -> None:
    engine = LocalEngine(make_config())
    state = build_network(make_config().model).state_dict()
    digests = {engine.recipe.digest}
    for change in (0.0, 1e-3):
        state["fc.bias"] = state["fc.bias"] + change
        torch.save(state, tmp_path / "weights.pth")
        digests.add(
            LocalEngine(make_config(f"model.checkpoint={tmp_path}/weights.pth")).recipe.digest
        )
    assert len(digests) == 2


def test_stored_maps_make_the_same_boxes(make_config: ConfigMaker) -> None:
    from cambox.cams.boxes import find_boxes
    from cambox.config_cam import BoxSettings
    from cambox.output.rows import StoredMap

    _, rows = annotate(make_config("output.store_maps=true", "boxes.max_boxes=1"))
    close = total = 0
    for row in rows:
        assert [entry["class_id"] for entry in row["maps"]] == [
            entry["class_id"] for entry in row["classes"]
        ]
        for entry in row["maps"]:
            score_map = StoredMap(**entry).restore()
            box = find_boxes(score_map[None], (64, 64), BoxSettings(max_boxes=1)).boxes
            written = next(o for o in row["objects"] if o["class_id"] == entry["class_id"])
            total += 1
            left = box.corners[0, 0] * row["width"]
            close += abs(left - written["x_min"]) <= row["width"] / 64
    # 8 bits move a threshold crossing by a cell of the upsampled map, seldom more.
    assert close >= 0.95 * total


def test_the_thresholded_pooling_scores_the_classes_of_a_network_trained_with_it(
    make_config: ConfigMaker,
) -> None:
    _, average = annotate(make_config())
    _, thresholded = annotate(make_config("cam.pooling={kind: thresholded, threshold: 0.5}"))
    assert [r["classes"] for r in average] != [r["classes"] for r in thresholded]


def test_sigmoid_probabilities_do_not_share_out_one(make_config: ConfigMaker) -> None:
    _, rows = annotate(make_config("model.activation=sigmoid", "cam.top_k=10"))
    assert any(abs(sum(c["probability"] for c in row["classes"]) - 1) > 0.1 for row in rows)
    _, rows = annotate(make_config("cam.top_k=10"))
    assert all(abs(sum(c["probability"] for c in r["classes"]) - 1) < 1e-5 for r in rows)


def test_groups_of_the_models_classes_are_the_classes(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    groups = {"even": [0, 2, 4, 6, 8], "odd": [1, 3, 5, 7], "nine": ["9"]}
    (tmp_path / "groups.yaml").write_text(yaml.safe_dump(groups, sort_keys=False))
    common = ["cam.classes=both", f"model.class_groups={tmp_path}/groups.yaml"]
    summary, rows = annotate(make_config(*common, f"output.uri={tmp_path}/grouped"))
    _, plain = annotate(make_config("cam.top_k=10", f"output.uri={tmp_path}/plain"))
    assert summary.recipe.class_names == ("even", "odd", "nine")
    for row, single in zip(rows, plain, strict=True):
        chance = {entry["class_id"]: entry["probability"] for entry in single["classes"]}
        expected = [sum(chance[int(member)] for member in some) for some in groups.values()]
        for entry in row["classes"]:
            assert entry["probability"] == pytest.approx(expected[entry["class_id"]], rel=1e-4)
        # Labels are places in the file of groups, of which there are three.
        assert (row["status"] == "ok") == (single["labels"][0] < 3)
        if row["status"] == "ok":
            assert row["labels"] == single["labels"]
            assert {box["class_name"] for box in row["objects"]} <= set(groups)
    assert any(row["objects"] for row in rows)
    with pytest.raises(RequestError, match=r"cam.top_k: 4 is more than .* 3 classes"):
        run(make_config(*common, "cam.top_k=4"), QUIET)
