"""``cambox fuse``: an output of two that is sound, says its origin, and grows with both."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cambox.boxes import Boxes
from cambox.cli import app
from cambox.cli.options import carry_out
from cambox.config import Config, OutputSettings
from cambox.fuse import Rule
from cambox.fuse.fuse import fuse_outputs
from cambox.fuse.rows import Fused, Fusion
from cambox.output.derived import Derived
from cambox.output.footer import Footer, Recipe
from cambox.output.publish import publish
from cambox.output.rows import ClassScore, Row, table
from cambox.run import run
from cambox.sources.shards import Shard
from cambox.verify.verify import verify

NAMES = ("cat", "dog", "cow")
SETTINGS: dict[str, Any] = {name: {} for name in ("input", "model", "cam", "boxes", "output")}
Fuse = Callable[..., Derived[Fused]]


@pytest.fixture
def annotate(make_config: Callable[..., Config]) -> Callable[..., Path]:
    def call(*overrides: str) -> Path:
        summary = run(make_config("cam.classes=both", *overrides), Console(file=io.StringIO()))
        assert summary.complete
        return Path(summary.folder)

    return call


@pytest.fixture
def fuse(tmp_path: Path) -> Fuse:
    def call(a: Path, b: Path, rule: Rule = Rule.fuse, iou: float = 0.55) -> Derived[Fused]:
        fusion = Fusion(rule, iou, (1.0, 1.0))
        return fuse_outputs(str(a), str(b), str(tmp_path / "fused"), fusion)

    return call


def box(
    class_id: int, corners: tuple[float, float, float, float], score: float, rank: int = 0
) -> Boxes:
    return Boxes.of([corners], class_id=class_id, rank=rank, class_score=0.5, score=score)


def row(
    key: str, *boxes: Boxes, classes: tuple[int, ...] = (), labels: tuple[int, ...] = (0,)
) -> tuple[Row, Boxes]:
    scores = tuple(ClassScore(one, rank, 0.5 / rank) for rank, one in enumerate(classes, 1))
    return Row(key, "", 0, "ok", None, 100, 100, labels, scores), Boxes.joined(boxes)


def write(
    folder: Path,
    shards: dict[str, list[tuple[Row, Boxes]]],
    names: tuple[str, ...] = NAMES,
    fingerprint: str = "1",
) -> Path:
    recipe = Recipe.of(SETTINGS | {"boxes": {"of": folder.name}}, names)
    for uri, entries in shards.items():
        rows = [
            Row(one.key, uri, at, *(getattr(one, name) for name in Row.__slots__[3:]))
            for at, (one, _) in enumerate(entries)
        ]
        boxes = Boxes.joined(
            of_row.with_columns(image=of_row.image + at) for at, (_, of_row) in enumerate(entries)
        )
        made = table(rows, boxes, names, with_maps=False)
        publish(made, Shard(uri, 1, fingerprint), recipe, OutputSettings(uri=str(folder)))
    return folder


def rows_of(folder: Path | str) -> list[dict[str, Any]]:
    paths = sorted(Path(folder).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def objects_of(folder: Path | str) -> dict[str, list[tuple[Any, ...]]]:
    names = ("class_name", "rank", "component", "x_min", "y_min", "x_max", "y_max", "touches_edge")
    return {
        row["key"]: [tuple(one[name] for name in names) for one in row["objects"]]
        for row in rows_of(folder)
    }


def ended(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a request that is wrong."""
    command = lambda: app([*map(str, arguments)])  # noqa: E731
    with pytest.raises(SystemExit) as end:
        carry_out(command)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("rule", Rule)
def test_every_rule_makes_a_sound_output_of_the_first_ones_rows(
    rule: Rule, annotate: Callable[..., Path], fuse: Fuse
) -> None:
    # One with maps, which are not carried.
    first = annotate("output.store_maps=true", "boxes.threshold=0.35")
    second = annotate("boxes.threshold=0.5", "boxes.max_boxes=2")
    summary = fuse(first, second, rule)
    verification = verify(summary.folder, against_input=True)
    assert verification.problems == ()
    assert (verification.files, verification.rows) == (3, 12)
    made, rows_a, rows_b = map(rows_of, (summary.folder, first, second))
    for mine, of_a in zip(made, rows_a, strict=True):
        of_a.pop("maps")
        assert {**mine, "objects": 0} == {**of_a, "objects": 0}
    in_a, in_b, written = (
        sum(len(row["objects"]) for row in rows) for rows in (rows_a, rows_b, made)
    )
    report = summary.made
    assert (report.rows, report.boxes_a, report.boxes_b, report.boxes) == (12, in_a, in_b, written)
    assert report.unknown == 0
    assert 0 < report.in_both < in_a
    if rule is Rule.agree:
        assert written == report.in_both
    elif rule is Rule.replace:
        for mine, *both in zip(made, rows_a, rows_b, strict=True):
            corners: dict[int, list[float]] = {}
            for of_one in both:
                there = {one["class_id"] for one in of_one["objects"]}
                corners = {key: kept for key, kept in corners.items() if key not in there}
                for one in of_one["objects"]:
                    corners.setdefault(one["class_id"], []).append(one["x_min"])
            expected = sorted(x for kept in corners.values() for x in kept)
            assert sorted(one["x_min"] for one in mine["objects"]) == expected
    else:
        assert in_a <= written < in_a + in_b


def test_the_footer_says_what_a_file_was_made_of(annotate: Callable[..., Path], fuse: Fuse) -> None:
    first, second = annotate("boxes.threshold=0.35"), annotate("boxes.threshold=0.5")
    summary = fuse(first, second)
    path = sorted(Path(summary.folder).iterdir())[0]
    parents = [pq.read_metadata(folder / path.name).metadata for folder in (first, second)]
    metadata = pq.read_metadata(path).metadata
    assert json.loads(metadata[b"cambox.source"]) == [
        {
            "recipe_digest": one[b"cambox.recipe_digest"].decode(),
            "sha256": json.loads(one[b"cambox.data"])["sha256"],
        }
        for one in parents
    ]
    of_a, of_b = map(Footer.from_metadata, parents)
    footer = Footer.from_metadata(metadata)
    recipe = json.loads(footer.recipe)
    assert recipe.pop("fuse") == {
        "of": [of_a.recipe_digest, of_b.recipe_digest],
        "rule": "fuse",
        "iou": 0.55,
        "weights": [1.0, 1.0],
    }
    assert recipe == json.loads(of_a.recipe)
    assert (footer.shard, footer.classes) == (of_a.shard, of_a.classes)
    # What does not shape the rows is not in the recipe.
    assert fuse(first, second, Rule.replace, 0.3).recipe == fuse(first, second, Rule.replace).recipe
    assert fuse(first, second, Rule.union, 0.3).recipe != fuse(first, second, Rule.union).recipe


def test_boxes_by_hand(tmp_path: Path, fuse: Fuse) -> None:
    first = [
        row("both", box(0, (0, 0, 40, 40), 0.5)),
        row("one", box(0, (0, 0, 40, 40), 0.5), box(1, (5, 5, 9, 9), 0.4, 1), classes=(1, 2)),
        row("none"),
    ]
    second = [
        row("both", box(0, (0, 0, 50, 40), 0.5)),
        row("one", box(2, (60, 60, 100, 90), 0.9, 1), classes=(2, 1)),
        # Of a class that A's row does not tell.
        row("none", box(0, (1, 1, 2, 2), 0.5), box(2, (0, 0, 9, 9), 0.5, 1), classes=(2,)),
    ]
    a = write(tmp_path / "a", {"s.tar": first})
    b = write(tmp_path / "b", {"s.tar": second})
    summary = fuse(a, b)
    assert objects_of(summary.folder) == {
        "both": [("cat", 0, 0, 0, 0, 45, 40, True)],
        "one": [
            ("cat", 0, 0, 0, 0, 40, 40, True),
            ("dog", 1, 0, 5, 5, 9, 9, False),
            # In A's row this class has the rank 2.
            ("cow", 2, 0, 60, 60, 100, 90, True),
        ],
        "none": [("cat", 0, 0, 1, 1, 2, 2, False)],
    }
    assert summary.made == Fused(rows=3, boxes_a=3, boxes_b=4, in_both=1, unknown=1, boxes=5)
    assert verify(summary.folder).ok
    scores = [one["box_score"] for row in rows_of(summary.folder) for one in row["objects"]]
    assert scores == pytest.approx([0.5, 0.25, 0.2, 0.45, 0.25])
    assert len(objects_of(fuse(a, b, Rule.agree).folder)["one"]) == 0


def test_a_second_run_does_what_is_new_or_changed_in_either(tmp_path: Path, fuse: Fuse) -> None:
    shards = {f"{name}.tar": [row(name, box(0, (0, 0, 40, 40), 0.5))] for name in "xyz"}
    a, b = (write(tmp_path / name, shards) for name in "ab")
    assert fuse(a, b).published == 3
    assert (fuse(a, b).published, fuse(a, b).done_before) == (0, 3)
    write(b, {"y.tar": [row("y", box(0, (0, 0, 60, 40), 0.5))]})
    summary = fuse(a, b)
    assert (summary.published, summary.done_before) == (1, 2)
    assert objects_of(summary.folder)["y"] == [("cat", 0, 0, 0, 0, 50, 40, True)]


def broken(tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """Of each pair of outputs, in which only z.tar can be fused: why the others cannot."""
    shards = {f"{name}.tar": [row(name, box(0, (0, 0, 40, 40), 0.5))] for name in "xz"}
    a = write(tmp_path / "a", shards)
    yield "has no file of x.tar", a, write(tmp_path / "b", {"z.tar": shards["z.tar"]})
    for reason, name, rows in (
        ("row 0 has the key x where B has other", "c", [row("other")]),
        ("1 row where B has 2", "d", [row("x"), row("x2")]),
    ):
        yield reason, a, write(tmp_path / name, shards | {"x.tar": rows})
    changed = write(tmp_path / "e", {"z.tar": shards["z.tar"]})
    write(changed, {"x.tar": shards["x.tar"]}, fingerprint="2")
    yield "is of another state of x.tar", a, changed
    damaged = write(tmp_path / "f", shards)
    (path,) = damaged.glob("*/x-*.parquet")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    yield f"{path}: ", a, damaged


def test_a_shard_that_does_not_fit_is_given_up_and_the_others_are_made(tmp_path: Path) -> None:
    for reason, a, b in broken(tmp_path):
        to = ("--to", str(tmp_path / "fused"), "--json")
        result = CliRunner().invoke(app, ["fuse", str(a), str(b), *to])
        assert result.exit_code == 1, reason
        document = json.loads(result.stdout)
        assert (document["files"]["published"], document["boxes"]) == (1, 1), reason
        (given_up,) = document["files"]["given_up"]
        assert reason in given_up["reason"]
        assert Path(given_up["file"]).name.startswith("x-")
        assert f"given up: {given_up['file']}: " in result.stderr
        assert [row["key"] for row in rows_of(document["output"])] == ["z"]


def test_what_cannot_be_fused_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = {"x.tar": [row("x")]}
    a, b = (write(tmp_path / name, shards) for name in "ab")
    fewer = write(tmp_path / "fewer", shards, NAMES[:2])
    renamed = write(tmp_path / "renamed", shards, ("cat", "wolf", "cow"))
    elsewhere = write(tmp_path / "elsewhere", {"y.tar": [row("y")]})
    to = ("--to", str(tmp_path / "fused"))
    for second, more, message in (
        (fewer, (), "has 2 classes, "),
        (renamed, (), "class 1 is 'wolf' in "),
        (elsewhere, (), "have no shard in common"),
        (b, ("--weights", "1"), "--weights: 1 is not two numbers above 0"),
        (b, ("--weights", "1,0"), "--weights: 1,0 is not two numbers above 0"),
        (b, ("--weights", "1,2", "--rule", "union"), "--weights has no meaning with --rule union"),
        (tmp_path / "nowhere", (), "nowhere does not exist"),
    ):
        assert message in ended("fuse", str(a), str(second), *to, *more, capsys=capsys)
    assert not (tmp_path / "fused").exists()
