"""What is most worth a person's minute comes first, of each class some, and none of it twice."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cambox.boxes import Boxes
from cambox.cli import main
from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.output.footer import Recipe
from cambox.output.publish import publish
from cambox.output.reading import PublishedRecipe, open_recipe
from cambox.output.reviewed import ReviewedRow, keep_reviewed
from cambox.output.rows import ClassScore, Row, table
from cambox.review.pick import pick
from cambox.sources.shards import find_shards
from makers import write_tar

NAMES = ("common", "rare", "other")


@dataclass(frozen=True)
class Given:
    """A row: its boxes by class, score and left edge, and its top-k classes."""

    key: str
    boxes: tuple[tuple[int, float, float], ...]
    classes: tuple[int, ...] = (0,)
    status: str = "ok"
    labels: tuple[int, ...] = ()


def write(folder: Path, name: str, given: Sequence[Given]) -> PublishedRecipe:
    path = folder / "a.tar"
    if not path.exists():
        write_tar(path, {f"{one.key}.jpg": one.key.encode() for one in given})
    (shard,) = find_shards([str(path)])
    sections: dict[str, object] = {key: {} for key in ("model", "cam", "boxes", "output")}
    text = json.dumps(sections | {"input": {"labels": "cls", "max_pixels": 10_000}})
    recipe = Recipe(text, NAMES, name.encode().hex().ljust(64, "0"))
    rows = [
        Row(
            key=one.key,
            shard=shard.uri,
            sample_index=index,
            status=one.status,
            error=None,
            width=100,
            height=100,
            labels=one.labels,
            classes=tuple(ClassScore(number, at, 0.9) for at, number in enumerate(one.classes, 1)),
        )
        for index, one in enumerate(given)
    ]
    listed = [(at, *box) for at, one in enumerate(given) for box in one.boxes]
    boxes = Boxes.of(
        [[left, 0, left + 10, 10] for *_, left in listed],
        image=[at for at, *_ in listed],
        class_id=[number for _, number, *_ in listed],
        score=[score for *_, score, _ in listed],
    )
    output = OutputSettings(uri=str(folder / name))
    publish(table(rows, boxes, NAMES, with_maps=False), shard, recipe, output)
    return open_recipe(str(folder / name))


GIVEN = (
    *(Given(f"sure-{number}", ((0, 0.95, 0.0),)) for number in range(6)),
    *(Given(f"even-{number}", ((0, 0.5 + number / 100, 0.0),)) for number in range(4)),
    Given("rare", ((1, 0.8, 0.0),), (1,)),
    Given("strange", ((0, 0.5, 0.0),), (2,)),
    Given("none", (), labels=(0,)),
    Given("torn", (), status="unreadable"),
)


def test_doubt_and_classes_and_novelty_decide_and_a_reason_is_given(tmp_path: Path) -> None:
    recipe = write(tmp_path, "out", GIVEN)
    picks = pick(recipe, 4)
    # The rare class first; then the two most even guesses, which are like nothing else; then what
    # is worth less, or like one that was taken.
    first, *two, last = [one.key for one in picks]
    assert (first, set(two), last) == ("rare", {"even-0", "strange"}, "even-1")
    assert [one.rank for one in picks] == [1, 2, 3, 4]
    assert picks[0].reason == "its box of rare has a score of 0.80; rare is rare"
    assert all("unlike what was taken" in one.reason for one in picks[1:3])
    assert picks[3].reason == "its box of common has a score of 0.51"
    # Nothing that has no picture, and each once.
    every = pick(recipe, 100)
    reasons = {one.key: one.reason for one in every}
    assert reasons["none"] == "common is given, and no box was found"
    assert Counter(one.key for one in every) == Counter(
        one.key for one in GIVEN if one.status == "ok"
    )
    assert every == pick(recipe, 100)


def test_where_two_recipes_differ_comes_first(tmp_path: Path) -> None:
    recipe = write(tmp_path, "out", GIVEN)
    moved = [replace(one, boxes=((0, 0.9, 50.0),)) if one.key == "sure-3" else one for one in GIVEN]
    moved = [replace(one, boxes=((0, 0.9, 5.0),)) if one.key == "sure-4" else one for one in moved]
    other = write(tmp_path, "other", moved)
    reasons = {one.key: one.reason for one in pick(recipe, 20, beside=other)}
    assert reasons["sure-3"].startswith("only this recipe has this box of common")
    assert reasons["sure-4"].startswith("the recipes' boxes of common overlap by 0.33")
    first = [one.key for one in pick(recipe, 20, beside=other) if one.class_id == 0][:3]
    assert "sure-3" in first
    elsewhere = replace(other, footer=replace(other.footer, classes=("a", "b", "c")))
    with pytest.raises(RequestError, match="knows other classes"):
        pick(recipe, 1, beside=elsewhere)


def test_what_people_have_settled_is_not_picked_and_neither_what_is_like_it(
    tmp_path: Path,
) -> None:
    recipe = write(tmp_path, "out", GIVEN)
    shard = recipe.files[0].shard
    row = ReviewedRow(
        shard=shard.uri,
        key="rare",
        sha256="0" * 64,
        width=100,
        height=100,
        complete=True,
        objects=(),
        same_in=(shard.fingerprint,),
        source="a.json",
        reviewed_at=datetime(2026, 11, 27, tzinfo=UTC),
    )
    keep_reviewed(str(tmp_path / "out"), lambda there: [*there, row])
    again = open_recipe(str(tmp_path / "out"))
    assert "rare" not in {one.key for one in pick(again, 100)}
    # Where a person left a box without a word there is more to do.
    keep_reviewed(str(tmp_path / "out"), lambda _: [replace(row, complete=False)])
    assert "rare" in {one.key for one in pick(open_recipe(str(tmp_path / "out")), 100)}


def test_the_command_writes_a_file_that_export_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "out", GIVEN)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cambox", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert "1. rare: its box of rare" in call("pick", "out", "--count", "3", "--to", "p.parquet")
    rows = pq.read_table("p.parquet").to_pylist()
    assert [row["rank"] for row in rows] == [1, 2, 3]
    call("export", "out", "--format", "coco", "--to", "coco", "--pick", "p.parquet")
    document = json.loads(Path("coco/annotations.json").read_text())
    assert {image["key"] for image in document["images"]} == {row["key"] for row in rows}
    about = json.loads(Path("coco/cambox.json").read_text())
    assert about["left_out"]["not picked"] == len(GIVEN) - 3
