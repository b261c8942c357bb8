"""The examples of docs/query.md and docs/training.md run, and say what is so."""

from __future__ import annotations

import csv
import re
import shlex
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from cambox.cli import main
from makers import CLASS_NAMES, ROOT, KnownBox, Published, publish_rows

DOCS = ROOT / "docs"


def blocks(name: str, language: str) -> list[str]:
    text = (DOCS / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """What the examples find in the current folder."""
    made = publish_rows(tmp_path)
    (made.output / "latest").symlink_to(made.folder.name)
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "class_index"))
        writer.writerows((f"{row.key}.jpg", 1) for row in made.rows)
    monkeypatch.chdir(tmp_path)
    return made


def boxes_of(published: Published) -> list[KnownBox]:
    return [item for row in published.rows for item in row.objects]


def test_the_queries_of_duckdb(published: Published) -> None:
    per_class, poor, statuses, disagreeing, shares = (
        duckdb.sql(query).fetchall() for query in blocks("query.md", "sql")
    )
    scores = defaultdict(list)
    for item in boxes_of(published):
        scores[item.class_name].append(item.box_score)
    assert {name: count for name, count, _, _ in per_class} == {
        name: len(values) for name, values in scores.items()
    }
    assert all(mean == pytest.approx(np.mean(scores[name])) for name, _, _, mean in per_class)
    assert {name: images for name, _, images, _ in per_class} == Counter(
        name for row in published.rows for name in {item.class_name for item in row.objects}
    )

    best = sorted(
        (max(item.box_score for item in row.objects), row.key) for row in published.with_boxes
    )
    assert [(score, key) for _, key, score in poor] == best[:5]

    assert Counter({status: images for status, images, _ in statuses}) == Counter(
        row.status for row in published.rows
    )
    assert {status: without for status, _, without in statuses} == {
        "ok": 1,
        "unreadable": 1,
        "no_label": 1,
    }

    wrong = [
        (row.key, 1, row.classes[0].class_id)
        for row in published.rows
        if row.status == "ok" and row.classes[0].class_id != 1
        # The one key that two shards have is in the table of labels twice.
        for _ in range(1 + (row.key == "dog/1"))
    ]
    assert sorted(found[:3] for found in disagreeing) == sorted(wrong)

    chosen = [
        (item.x_max - item.x_min) * (item.y_max - item.y_min) / (row.width * row.height)
        for row in published.rows
        for item in row.objects
        if row.width and row.height and item.box_score >= np.float32(0.3)
    ]
    bins = Counter(min(int(10 * share), 9) for share in chosen)
    assert len(bins) > 2
    assert dict(shares) == bins


def test_the_queries_of_pyarrow(published: Published) -> None:
    names: dict[str, Any] = {}
    for code in blocks("query.md", "python"):
        exec(code, names)
    boxes = boxes_of(published)
    assert names["boxes"] == Counter(item.class_name for item in boxes)
    assert Counter(names["failed"]["status"].to_pylist()) == {"unreadable": 1, "no_label": 1}
    grouped = {row["group"]: row for row in names["grouped"].to_pylist()}
    for class_id, group in enumerate(("first", "second")):
        scores = [item.box_score for item in boxes if item.class_id == class_id]
        assert grouped[group]["key_count"] == len(scores)
        assert grouped[group]["box_score_mean"] == pytest.approx(np.mean(scores))
    assert names["shard"] == published.rows[0].shard
    assert tuple(names["class_names"]) == CLASS_NAMES


def test_the_examples_of_training(published: Published) -> None:
    names: dict[str, Any] = {}
    for code in blocks("training.md", "python"):
        exec(code, names)
    wanted = {
        number
        for number, row in enumerate(published.rows)
        if any(item.box_score >= np.float32(0.3) for item in row.objects)
    }
    assert {names["dataset"].labelled(index).image_id for index in range(len(wanted))} == wanted
    assert len(names["dataset"]) == len(wanted)
    images, targets = names["images"], names["targets"]
    assert {tuple(image.shape) for image in images} == {(3, 320, 320)}
    assert all(len(target["boxes"]) == len(target["labels"]) for target in targets)


def test_the_exports_of_training(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    (commands,) = blocks("training.md", "sh")
    for command in commands.splitlines():
        monkeypatch.setattr("sys.argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    made = {path.parent.name for path in Path.cwd().glob("*/cambox.json")}
    assert made == {
        *("coco", "yolo", "voc", "hf"),
        *("results", "labelstudio", "cvat", "fiftyone"),
    }
