"""An output of several recipes: readers take `latest`, and `cambox list` tells them apart."""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest

import cambox
from cambox.cli import main
from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.output.footer import Recipe, recipe_digest
from cambox.output.history import list_recipes
from cambox.output.latest import Latest, move_latest
from cambox.output.publish import publish
from cambox.output.reading import open_recipe
from cambox.output.rows import Row, table
from cambox.sources.shards import Shard
from makers import boxes_of

MOMENTS = ("2026-03-01T10:00", "2026-03-02T10:00", "2026-03-02T11:00")


def recipe_of(threshold: float, names: tuple[str, ...] = ("cat", "dog"), **cam: object) -> Recipe:
    settings = {
        "input": {"max_pixels": 1000},
        "model": {"input_size": [64, 64]},
        "cam": {"top_k": 5, "classes": "both", "ranks": None, **cam},
        "boxes": {"threshold": threshold},
        "output": {"store_maps": False},
    }
    text = json.dumps(settings, sort_keys=True)
    return Recipe(text, names, recipe_digest(text, names))


RECIPES = (
    recipe_of(0.35),
    recipe_of(0.4, shift={"global_min": 0.5}),
    recipe_of(0.4, ("cat", "cow"), shift=0),
)


def write(output: OutputSettings, recipe: Recipe, rows: int) -> None:
    shard = Shard("/data/a.tar", 1, "x")
    made = [Row(str(at), shard.uri, at, "ok", None, 9, 9, None) for at in range(rows)]
    publish(table(made, boxes_of([]), recipe.class_names, with_maps=False), shard, recipe, output)


@pytest.fixture
def output(tmp_path: Path) -> OutputSettings:
    """Three recipes, of 1, 2 and 3 rows, the first written last but dated first."""
    settings = OutputSettings(uri=str(tmp_path / "out"))
    for rows, (recipe, moment) in reversed([*enumerate(zip(RECIPES, MOMENTS, strict=True), 1)]):
        write(settings, recipe, rows)
        seconds = datetime.fromisoformat(f"{moment}+00:00").timestamp()
        for path in (tmp_path / "out" / recipe.folder).iterdir():
            os.utime(path, (seconds, seconds))
    return settings


def point_to(output: OutputSettings, recipe: Recipe) -> None:
    uri = f"{output.uri}/{recipe.folder}"
    move_latest(
        output,
        Latest(
            recipe=recipe.folder, uri=uri, run="r", shards=1, rows=1, moved_at=datetime.now(UTC)
        ),
    )


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["cambox", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_list_is_in_the_order_of_time_and_says_what_each_recipe_changed(
    output: OutputSettings,
) -> None:
    point_to(output, RECIPES[1])
    listed = list_recipes(output.uri)
    assert [one.name for one in listed] == [recipe.folder for recipe in RECIPES]
    assert [one.rows for one in listed] == [1, 2, 3]
    assert [one.is_latest for one in listed] == [False, True, False]
    assert [f"{one.published_at:%Y-%m-%dT%H:%M}" for one in listed] == list(MOMENTS)
    assert [one.changes for one in listed] == [
        None,
        ("boxes.threshold: 0.35 to 0.4", "cam.shift.global_min: not there to 0.5"),
        (
            "cam.shift: not there to 0",
            "cam.shift.global_min: 0.5 to not there",
            "classes: cat, dog to cat, cow",
        ),
    ]


def test_a_damaged_file_is_counted_and_hides_no_recipe(output: OutputSettings) -> None:
    (path,) = (Path(output.uri) / RECIPES[1].folder).iterdir()
    path.write_bytes(b"torn")
    damaged = {one.name: (one.files, one.rows, one.damaged) for one in list_recipes(output.uri)}
    assert damaged == {
        RECIPES[0].folder: (1, 1, 0),
        RECIPES[1].folder: (0, 0, 1),
        RECIPES[2].folder: (1, 3, 0),
    }


def test_the_command_lists_for_people_and_programs(
    output: OutputSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    point_to(output, RECIPES[2])
    assert run(monkeypatch, "list", output.uri) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{RECIPES[0].folder}  2026-03-0\d \d\d:\d\d  1 file  1 row", lines[0])
    assert lines[1].endswith("1 file  2 rows")
    assert lines[2].startswith("    boxes.threshold: 0.35 to 0.4, cam.shift.global_min")
    assert lines[3].endswith("3 rows  latest")
    assert run(monkeypatch, "list", output.uri, "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["rows"] for entry in entries] == [1, 2, 3]
    assert entries[0]["published_at"].startswith("2026-03-01T10:00")
    assert run(monkeypatch, "list", f"{output.uri}/nowhere") == 2


@pytest.mark.parametrize("store", ["disk", "memory"])
def test_readers_take_the_latest_of_several_and_none_where_none_is(
    output: OutputSettings, store: str
) -> None:
    settings = output
    if store == "memory":
        settings = OutputSettings(uri="memory://history/out")
        filesystem = fsspec.filesystem("memory")
        filesystem.rm("/history", recursive=True) if filesystem.exists("/history") else None
        for rows, recipe in enumerate(RECIPES, 1):
            write(settings, recipe, rows)
        assert all(one.published_at is not None for one in list_recipes(settings.uri))
    for reader in (open_recipe, cambox.read):
        with pytest.raises(RequestError, match="holds 3 recipes, and none is latest; name one of"):
            reader(settings.uri)
    point_to(settings, RECIPES[1])
    assert open_recipe(settings.uri).uri.endswith(RECIPES[1].folder)
    assert cambox.read(settings.uri).count_rows() == 2
    # One that is named is taken, whatever is latest.
    assert cambox.read(f"{settings.uri}/{RECIPES[2].folder}").count_rows() == 3


def test_a_latest_that_is_gone_is_not_replaced_by_another(output: OutputSettings) -> None:
    point_to(output, RECIPES[1])
    shutil.rmtree(Path(output.uri) / RECIPES[1].folder)
    with pytest.raises(RequestError, match="holds 2 recipes, and none is latest"):
        open_recipe(output.uri)


def test_a_command_says_once_which_recipe_it_takes(
    output: OutputSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    point_to(output, RECIPES[1])
    truth = tmp_path / "truth.csv"
    truth.write_text("image,x_min,y_min,x_max,y_max\nnowhere,0,0,9,9\n")
    said = f"{output.uri} holds 3 recipes; taken: latest, {RECIPES[1].folder}"
    to = ("--to", str(tmp_path / "to"))
    for command in (
        ("diff", output.uri, f"{output.uri}/{RECIPES[0].folder}", *to, "--pictures", "0"),
        ("gallery", output.uri, *to),
        ("evaluate", output.uri, "--truth", str(truth), *to),
        ("rebox", output.uri, *to),
        ("export", output.uri, "--format", "coco", *to),
    ):
        run(monkeypatch, *command)
        assert capsys.readouterr().out.splitlines().count(said) == 1, command
