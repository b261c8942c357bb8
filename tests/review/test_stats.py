"""``cambox stats``: every figure beside a plain count of the rows, and what a run changed."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cambox.boxes import Boxes
from cambox.cli import main
from cambox.config import OutputSettings
from cambox.output.commit import commit
from cambox.output.footer import Recipe
from cambox.output.publish import publish, recipe_uri
from cambox.output.rows import Row, table
from cambox.review.stats.collect import statistics
from cambox.review.stats.report import balance_of
from cambox.review.stats.write import draw_statistics, lines
from cambox.sources.shards import Shard

NAMES = ("cat", "dog", "$nobody$", "bird")
RECIPE = Recipe.of({"made": "for this test"}, NAMES)
FIRST = datetime(2026, 1, 31, 2, 30, tzinfo=UTC)


def rows_of(shard: Shard, seed: int, count: int) -> pa.Table:
    """Rows of every status, boxes of three classes, some of them at the borders of sizes."""
    generator = np.random.default_rng(seed)
    statuses = generator.choice(["ok", "ok", "ok", "unreadable", "no_label"], count).tolist()
    rows = [
        Row(
            f"{at:03d}",
            shard.uri,
            at,
            status,
            None if status == "ok" else "because",
            None if status == "unreadable" else 200,
            None if status == "unreadable" else 150,
            None,
        )
        for at, status in enumerate(statuses)
    ]
    places, corners = [], []
    for at, status in enumerate(statuses):
        for _ in range(generator.integers(0, 4) if status == "ok" else 0):
            side = float(generator.choice([5, 31, 32, 95, 96, 150]))
            places.append(at)
            corners.append((0.0, 0.0, side, min(side, 150.0)))
    class_id = generator.choice([0, 0, 1, 3], len(places))
    boxes = Boxes.of(corners, image=places, class_id=class_id, score=0.5)
    return table(rows, boxes, NAMES, with_maps=False)


class Nights:
    """An output of a few shards, and runs that change it."""

    def __init__(self, folder: Path) -> None:
        self.settings = OutputSettings(uri=str(folder / "out"))
        self.folder = recipe_uri(self.settings, RECIPE)
        self.now = FIRST

    def run(self, **seeds: int) -> None:
        shards = [Shard(f"/data/{name}.tar", 100, str(seed)) for name, seed in seeds.items()]
        for shard, seed in zip(shards, seeds.values(), strict=True):
            publish(rows_of(shard, seed, 40 + seed), shard, RECIPE, self.settings)
        self.now += timedelta(days=1)
        commit(self.settings, RECIPE, shards, [], self.now)

    def rows(self) -> list[dict]:
        paths = sorted(Path(self.folder).glob("*.parquet"))
        return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def size_of(box: dict) -> str:
    area = (box["x_max"] - box["x_min"]) * (box["y_max"] - box["y_min"])
    return "small" if area < 32**2 else "medium" if area < 96**2 else "large"


def test_the_figures_are_those_of_a_plain_count(nights: Nights) -> None:
    nights.run(a=1, b=2)
    rows = nights.rows()
    found = statistics(nights.settings.uri)
    assert (found.rows, found.files, found.since) == (len(rows), 2, None)
    assert found.statuses == Counter(row["status"] for row in rows)
    assert found.without_boxes == sum(row["status"] == "ok" and not row["objects"] for row in rows)
    boxes = [(row, box) for row in rows for box in row["objects"]]
    assert found.boxes == len(boxes) > 50
    assert {name: count for name, count in found.sizes.items() if count} == Counter(
        size_of(box) for _, box in boxes
    )
    borders = (0.01, 0.05, 0.15, 0.5)
    shares = Counter(
        sum(box["x_max"] * box["y_max"] / (200 * 150) >= border for border in borders)
        for _, box in boxes
    )
    assert list(found.shares.values()) == [shares[at] for at in range(5)]
    of_class = Counter(box["class_name"] for _, box in boxes)
    assert {one.class_name: one.boxes for one in found.classes} == of_class
    assert [one.boxes for one in found.classes] == sorted(of_class.values(), reverse=True)
    for one in found.classes:
        mine = [(row, box) for row, box in boxes if box["class_name"] == one.class_name]
        assert one.images == len({(row["shard"], row["key"]) for row, _ in mine})
        assert sum(one.shares.values()) == len(mine)
        assert {name: count for name, count in one.sizes.items() if count} == Counter(
            size_of(box) for _, box in mine
        )
    balance = found.balance
    assert (balance.classes, balance.without_a_box) == (4, ["$nobody$"])
    assert (balance.largest, balance.largest_share) == ("cat", of_class["cat"] / len(boxes))


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6))
def test_evenness_is_one_where_all_have_as_many_and_zero_where_one_has_all(
    boxes: list[int],
) -> None:
    found = balance_of(np.array(boxes), [str(at) for at in range(len(boxes))])
    total = sum(boxes)
    if not total:
        assert (found.evenness, found.largest, found.largest_share) == (None, None, None)
        return
    entropy = -math.fsum(n / total * math.log2(n / total) for n in boxes if n)
    assert found.evenness == pytest.approx(entropy / math.log2(len(boxes)), abs=1e-9)
    assert (found.evenness > 1 - 1e-9) == (len(set(boxes)) == 1)
    assert (found.evenness == 0) == (boxes.count(0) == len(boxes) - 1)


def test_what_a_run_changed_is_told_from_the_files_that_it_changed(nights: Nights) -> None:
    nights.run(a=1, b=2)
    before = nights.rows()
    nights.run(b=5, c=3)
    since = statistics(nights.settings.uri).since
    assert since is not None
    after = nights.rows()
    assert since.at == FIRST + timedelta(days=1)
    assert (since.new, since.changed, since.gone, since.not_kept) == (1, 1, 0, 0)
    assert since.rows == len(after) - len(before)
    statuses = Counter(row["status"] for row in after)
    statuses.subtract(row["status"] for row in before)
    assert since.statuses == {name: rows for name, rows in statuses.items() if rows}
    boxes = [
        Counter(box["class_name"] for row in rows for box in row["objects"])
        for rows in (before, after)
    ]
    assert since.boxes == boxes[1].total() - boxes[0].total()
    assert {one.class_name: one.now - one.before for one in since.classes} == {
        name: boxes[1][name] - boxes[0][name] for name in NAMES if boxes[1][name] != boxes[0][name]
    }


def test_earlier_bytes_that_are_not_kept_count_for_nothing_but_rows(nights: Nights) -> None:
    nights.run(a=1, b=2)
    before = len(nights.rows())
    nights.run(b=5)
    shutil.rmtree(Path(nights.settings.uri) / "_runs" / RECIPE.folder / "replaced")
    since = statistics(nights.settings.uri).since
    assert since is not None
    assert (since.changed, since.not_kept) == (1, 1)
    assert since.rows == len(nights.rows()) - before != 0
    assert (since.statuses, since.boxes, since.classes) == ({}, 0, [])


def test_the_command_tells_and_draws(
    nights: Nights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stats(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cambox", "stats", nights.settings.uri, *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    assert stats() == 2
    capsys.readouterr()
    nights.run(a=1, b=2)
    nights.run(b=5, c=3)
    picture = tmp_path / "made" / "stats.png"
    assert stats("--json", "--to", str(picture)) == 0
    answer = json.loads(capsys.readouterr().out)
    found = statistics(nights.settings.uri)
    assert answer == json.loads(found.model_dump_json())
    assert Image.open(picture).width >= 1000
    assert stats() == 0
    out = capsys.readouterr().out.splitlines()
    assert out == list(lines(found))
    text = "\n".join(out)
    rows = nights.rows()
    assert f"{len(rows)} rows in 3 files: ok " in text
    assert "classes: 4, 1 without a box ($nobody$); cat has " in text
    assert "since the run of 2026-02-01 02:30 UTC: 1 file new, 1 changed, 0 gone; rows +" in text


def test_an_output_without_a_box_has_figures_and_a_picture(nights: Nights) -> None:
    shard = Shard("/data/a.tar", 100, "1")
    rows = [Row("a", shard.uri, 0, "unreadable", "zero bytes", None, None, None)]
    publish(table(rows, Boxes.of([]), NAMES, with_maps=False), shard, RECIPE, nights.settings)
    found = statistics(nights.settings.uri)
    assert (found.boxes, found.images, found.classes, found.since) == (0, 0, [], None)
    assert Image.open(io.BytesIO(draw_statistics(found))).format == "PNG"
    assert "0 boxes in 0 of 0 annotated images; 0 without a box" in list(lines(found))
