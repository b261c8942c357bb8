"""What changed between two outputs: counted by hand, and on a real pair of them."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from cambox.boxes import Boxes, pairs_by_overlap
from cambox.cli import app
from cambox.config import Config, OutputSettings
from cambox.output.footer import Recipe, recipe_digest
from cambox.output.publish import publish
from cambox.output.reading import open_recipe
from cambox.output.rows import ClassScore, Row, table
from cambox.review.diff.compare import compare
from cambox.review.diff.report import Difference, changed_settings
from cambox.run import run
from cambox.sources.shards import Shard

NAMES = ("cat", "dog", "cow")


RowAndBoxes = tuple[Row, Boxes]


def made(class_id: int, corners: tuple[float, float, float, float], score: float) -> Boxes:
    return Boxes.of([corners], class_id=class_id, rank=1, class_score=0.9, score=score)


def row(key: str, *boxes: Boxes, status: str = "ok", best: int | None = 0) -> RowAndBoxes:
    decoded = status == "ok"
    side = 100 if decoded else None
    classes = () if best is None else (ClassScore(best, 1, 0.9),)
    error = None if decoded else "cut"
    return Row(key, "shard.tar", 0, status, error, side, side, None, classes), Boxes.joined(boxes)


def write(
    folder: Path,
    shards: dict[str, list[RowAndBoxes]],
    threshold: float,
    names: tuple[str, ...] = NAMES,
) -> str:
    recipe_settings = json.dumps(
        {
            "boxes": {"threshold": threshold},
            "input": {"max_pixels": 10**6},
            "model": {"name": "m"},
            "cam": {},
            "output": {},
        }
    )
    recipe = Recipe(recipe_settings, names, recipe_digest(recipe_settings, names))
    for uri, entries in shards.items():
        boxes = Boxes.joined(
            of_row.with_columns(image=np.full(len(of_row), place))
            for place, (_, of_row) in enumerate(entries)
        )
        rows = table([row for row, _ in entries], boxes, names, with_maps=False)
        publish(rows, Shard(uri, 1, ""), recipe, OutputSettings(uri=str(folder)))
    return str(folder)


@pytest.fixture
def two_outputs(tmp_path: Path) -> tuple[str, str]:
    a = [
        row("same", made(0, (0, 0, 50, 50), 0.8)),
        # Moved by half its width: IoU 1/3.
        row("moved", made(0, (0, 0, 50, 50), 0.6)),
        row("other class", made(0, (0, 0, 50, 50), 0.5)),
        row("lost", made(0, (0, 0, 9, 9), 0.4), made(1, (0, 0, 50, 50), 0.3)),
        row("broke", made(2, (10, 10, 90, 90), 0.7)),
        row("only in a"),
    ]
    b = [
        row("only in b", made(2, (0, 0, 1, 1), 0.9)),
        row("moved", made(0, (25, 0, 75, 50), 0.7)),
        row("same", made(0, (0, 0, 50, 50), 0.8)),
        row("other class", made(1, (0, 0, 50, 50), 0.5), best=1),
        row("lost", made(1, (0, 0, 50, 50), 0.3)),
        row("broke", status="unreadable", best=None),
    ]
    first = write(tmp_path / "a", {"s.tar": a, "gone.tar": [row("x")], "t.tar": [row("y")]}, 0.3)
    second = write(tmp_path / "b", {"s.tar": b, "t.tar": [row("y")], "new.tar": [row("z")]}, 0.4)
    return first, second


def compared(first: str, second: str, pictures: int = 10) -> Difference:
    report, _ = compare(open_recipe(first), open_recipe(second), pictures)
    return report


def test_everything_that_changed_is_counted_by_hand(two_outputs: tuple[str, str]) -> None:
    report = compared(*two_outputs)
    assert report.settings == {"boxes.threshold": (0.3, 0.4)}
    assert report.shards.model_dump() == {"both": 2, "identical": 1, "only_a": 1, "only_b": 1}
    assert report.rows.model_dump() == {
        "both": 6,
        "only_a": 1,
        "only_b": 1,
        "changed": 4,
        "statuses": {"ok -> unreadable": 1},
        "first_class_changed": 2,
    }
    assert (report.a.rows, report.b.rows, report.a.boxes, report.b.boxes) == (7, 7, 6, 5)
    boxes = report.boxes
    assert (boxes.matched, boxes.identical, boxes.lost, boxes.gained) == (3, 2, 3, 1)
    assert boxes.mean_overlap == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert boxes.mean_score_change == pytest.approx(0.1 / 3, abs=1e-6)
    assert boxes.overlap_histogram == [0] * 6 + [1] + [0] * 12 + [2]
    # 7 boxes in all: three pairs, three lost, one gained.
    assert boxes.share_above == {
        "0.3": pytest.approx(3 / 7),
        "0.5": pytest.approx(2 / 7),
        "0.7": pytest.approx(2 / 7),
        "0.9": pytest.approx(2 / 7),
    }
    changes = {one.class_name: (one.boxes_a, one.boxes_b) for one in report.classes}
    assert changes == {"cat": (4, 2), "dog": (1, 2)}
    assert [(one.key, pytest.approx(one.amount, abs=1e-4)) for one in report.largest] == [
        ("other class", 1.0),
        ("broke", 0.7),
        ("moved", 0.7 * 2 / 3),
        ("lost", 0.4),
    ]


def test_an_output_does_not_differ_from_itself(two_outputs: tuple[str, str]) -> None:
    report = compared(two_outputs[0], two_outputs[0])
    assert report.settings == {}
    assert report.shards.identical == report.shards.both == 3
    assert report.rows.changed == report.boxes.lost == report.boxes.gained == 0
    assert report.boxes.matched == report.boxes.identical == report.a.boxes
    assert report.largest == []
    assert report.classes == []


def test_the_order_only_changes_the_sides(two_outputs: tuple[str, str]) -> None:
    there, back = compared(*two_outputs), compared(*two_outputs[::-1])
    assert there.boxes.lost == back.boxes.gained
    assert there.boxes.overlap_histogram == back.boxes.overlap_histogram
    assert there.boxes.mean_score_change == pytest.approx(-(back.boxes.mean_score_change or 0))
    amounts = {one.key: one.amount for one in there.largest}
    assert amounts == {one.key: one.amount for one in back.largest}


def test_classes_of_different_lists_are_compared_by_name(tmp_path: Path) -> None:
    # Class 0 is "cat" in one list and class 2 in the other.
    other = ("dog", "cow", "cat")
    first = write(tmp_path / "a", {"s.tar": [row("x", made(0, (0, 0, 10, 10), 0.5))]}, 0.3)
    second = write(
        tmp_path / "b", {"s.tar": [row("x", made(2, (0, 0, 10, 10), 0.5), best=2)]}, 0.3, other
    )
    report = compared(first, second)
    assert not report.same_classes
    assert report.boxes.identical == 1
    assert report.rows.first_class_changed == 0
    assert report.classes == []


def test_only_the_largest_changes_are_kept(two_outputs: tuple[str, str]) -> None:
    assert [one.key for one in compared(*two_outputs, 2).largest] == ["other class", "broke"]
    assert compared(*two_outputs, 0).largest == []


def test_settings_that_differ_are_named_in_full() -> None:
    before = {"a": {"b": 1, "c": [1]}, "d": 2}
    after = {"a": {"b": 1, "c": [2]}, "e": {"f": 3}}
    assert changed_settings(before, after) == {
        "a.c": ([1], [2]),
        "d": (2, None),
        "e": (None, {"f": 3}),
    }


side = st.integers(0, 6)
box = st.tuples(
    st.integers(0, 2), st.integers(0, 1), side, side, st.integers(1, 5), st.integers(1, 5)
)


def as_boxes(boxes: list[tuple[int, ...]]) -> Boxes:
    image, class_id, *low, width, height = np.array(boxes, np.int64).reshape(-1, 6).T
    corners = np.stack([*low, low[0] + width, low[1] + height], axis=1)
    return Boxes.of(corners, image=image, class_id=class_id)


@settings(max_examples=200)
@given(st.lists(box, max_size=8), st.lists(box, max_size=8))
def test_pairs_are_those_of_a_greedy_search_written_out(
    first: list[tuple[int, ...]], second: list[tuple[int, ...]]
) -> None:
    def cells(one: tuple[int, ...]) -> set[tuple[int, int]]:
        return set(
            itertools.product(range(one[2], one[2] + one[4]), range(one[3], one[3] + one[5]))
        )

    every = [
        (-len(cells(one) & cells(two)) / len(cells(one) | cells(two)), at, to)
        for at, one in enumerate(first)
        for to, two in enumerate(second)
        if one[:2] == two[:2] and cells(one) & cells(two)
    ]
    expected: list[tuple[int, int]] = []
    for _, at, to in sorted(every):
        if all(at != other and to != another for other, another in expected):
            expected.append((at, to))
    in_first, in_second, overlap = pairs_by_overlap(as_boxes(first), as_boxes(second))
    assert list(zip(in_first.tolist(), in_second.tolist(), strict=True)) == expected
    assert overlap.tolist() == sorted(overlap.tolist(), reverse=True)


def test_an_image_that_could_not_be_decoded_says_so_in_place_of_its_picture(
    two_outputs: tuple[str, str],
) -> None:
    report, sheet = compare(*map(open_recipe, two_outputs), 10)
    problems = {change.key: change.problem or "" for change in report.largest}
    assert problems["broke"] == "cut"
    assert "the shard cannot be read" in problems["moved"]
    assert sheet is None


def test_the_command_draws_the_changes_and_says_why_where_it_cannot(
    make_config: Callable[..., Config], tmp_path: Path, shards: Path
) -> None:
    folders = [
        run(make_config(f"boxes.threshold={tau}"), Console(file=io.StringIO())).folder
        for tau in (0.3, 0.8)
    ]
    to = tmp_path / "diff"
    arguments = ["diff", *folders, "--to", str(to), "--pictures", "3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "boxes.threshold: 0.3 -> 0.8" in result.output
    assert "rows: 12 in both" in result.output
    report = Difference.model_validate_json((to / "diff.json").read_text())
    assert len(report.largest) == 3
    assert all(one.problem is None for one in report.largest)
    assert cv2.imread(str(to / "diff.png")).shape[1] > 1200

    moved = shards.rename(shards.with_name("elsewhere"))
    try:
        result = CliRunner().invoke(app, [*arguments, "--json"])
    finally:
        moved.rename(shards)
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert all("the shard cannot be read" in one["problem"] for one in document["largest"])
    assert "no picture of" in result.stderr
    assert not (to / "diff.png").exists()
