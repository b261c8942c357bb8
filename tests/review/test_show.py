"""``cambox show``: one sample by its key, its picture drawn, and the terminals it is shown on."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cambox.boxes import Boxes
from cambox.cli import main
from cambox.config import OutputSettings
from cambox.errors import RequestError
from cambox.output.footer import Recipe
from cambox.output.known_file import known_file
from cambox.output.publish import publish
from cambox.output.published_file import PublishedFile
from cambox.output.rows import Row, StoredMap, table
from cambox.review.draw import draw
from cambox.review.palette import class_colour
from cambox.review.show.find import find_sample
from cambox.review.show.picture import draw_sample
from cambox.review.show.terminal import as_blocks, as_iterm, as_kitty, print_picture, way_of
from cambox.sources.shards import find_shards
from makers import Published, publish_rows, write_tar

BOX = {
    "class_id": 1,
    "class_name": "crane",
    "box_score": 0.5,
    "x_min": 8.0,
    "y_min": 4.0,
    "x_max": 40.0,
    "y_max": 24.0,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_rows(tmp_path_factory.mktemp("made"))


def test_a_sample_has_its_row_and_its_picture(made: Published) -> None:
    sample = find_sample(str(made.output), "turned")
    (row,) = [row for row in made.rows if row.key == "turned"]
    assert sample.shard == row.shard
    assert sample.row["sample_index"] == row.sample_index
    assert [box["box_score"] for box in sample.row["objects"]] == pytest.approx(
        [box.box_score for box in row.objects]
    )
    assert sample.image is not None
    assert sample.image.shape == (row.height, row.width, 3)


def test_a_key_of_several_shards_asks_which(made: Published) -> None:
    with pytest.raises(RequestError, match=r"'dog/1' is in 2 shards: .*shard-0.*shard-1") as asked:
        find_sample(str(made.output), "dog/1")
    assert asked.value.exit_code == 2
    sample = find_sample(str(made.output), "dog/1", "shard-1.tar")
    assert (sample.row["width"], sample.shard) == (30, str(made.shards[1]))
    assert find_sample(str(made.output), "dog/1", str(made.shards[0])).row["width"] == 61
    with pytest.raises(RequestError, match=r"--shard: .* has no shard 'ard-1.tar'; there are "):
        find_sample(str(made.output), "dog/1", "ard-1.tar")
    with pytest.raises(RequestError, match=r"no row with the key 'dog/1.jpg'; .*'dog/1'"):
        find_sample(str(made.output), "dog/1.jpg")


def test_a_sample_without_a_picture_says_why(made: Published) -> None:
    sample = find_sample(str(made.output), "torn")
    assert (sample.image, sample.problem) == (None, "because")
    with pytest.raises(RequestError, match=r"'torn' of .*shard-1.tar cannot be drawn: because"):
        draw_sample(sample)


def test_only_keys_are_read_and_of_row_groups_that_may_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{number:05d}" for number in range(30)]
    rows = [Row(key, "/s.tar", at, "ok", None, 9, 9, None) for at, key in enumerate(keys)]
    monkeypatch.setattr("cambox.output.publish.ROW_GROUP_ROWS", 10)
    (shard,) = find_shards([str(write_tar(tmp_path / "s.tar", {"a.txt": b""}))])
    recipe = Recipe.of({"made": "here"}, ("cat",))
    rows_table = table(rows, Boxes.of([]), ("cat",), with_maps=True)
    uri = publish(rows_table, shard, recipe, OutputSettings(uri=str(tmp_path / "out")))
    file, _ = known_file(uri, None)
    read = []
    batches = PublishedFile._batches

    def noted(self: PublishedFile, columns: list[str], most: int, groups: list[int]) -> object:
        read.append((columns, groups))
        return batches(self, columns, most, groups)

    monkeypatch.setattr(PublishedFile, "_batches", noted)
    assert file.places_of("key", "00017") == [17]
    assert file.places_of("key", "00030") == []
    assert file.places_of("key", "000175") == []
    assert read == [(["key"], [1]), (["key"], [1])]


def test_boxes_are_drawn_where_they_are_and_maps_lie_below() -> None:
    picture = np.full((32, 64, 3), 90, np.uint8)
    drawn = draw(picture, [BOX], labels=False)
    assert drawn.shape == picture.shape
    coloured = (drawn == class_colour(1)).all(axis=2)
    rows, columns = np.nonzero(coloured)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (8, 4, 40, 24)
    assert not coloured[8:20, 12:36].any()
    assert (draw(picture) == picture).all()
    twice = (draw(picture, [BOX], side=128, labels=False) == class_colour(1)).all(axis=2)
    rows, columns = np.nonzero(twice)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (16, 8, 80, 48)
    # Bright where the map is high: on its right.
    stored = StoredMap.of(1, 0, np.array([[0.0, 0.0, 1.0, 1.0]]))
    heat = draw(picture, score_map={name: getattr(stored, name) for name in stored.__slots__})
    assert heat[:, 48:].mean() > heat[:, :16].mean() + 50


def test_terminals_are_told_by_what_they_say_of_themselves() -> None:
    assert way_of({"KITTY_WINDOW_ID": "1", "TERM": "xterm-kitty"}) == "kitty"
    assert way_of({"TERM_PROGRAM": "ghostty"}) == "kitty"
    assert way_of({"TERM_PROGRAM": "WezTerm"}) == "iterm"
    assert way_of({"TERM_PROGRAM": "Apple_Terminal", "TERM": "xterm-256color"}) == "blocks"
    assert way_of({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}) == "blocks"
    assert way_of({"TERM_PROGRAM": "iTerm.app", "TMUX": "1"}) == "blocks"


def test_each_terminal_gets_the_whole_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)

    def decoded(text: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))

    kitty = as_kitty(picture)
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty)
    assert "".join(f"\x1b_G{control};{data}\x1b\\" for control, data in parts) == kitty
    assert [control for control, _ in parts] == [
        "a=T,f=100,m=1",
        *["m=1"] * (len(parts) - 2),
        "m=0",
    ]
    assert max(len(data) for _, data in parts) == 4096
    assert (decoded("".join(data for _, data in parts)) == picture).all()
    (size, data) = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+);preserveAspectRatio=1:([^\x07]*)\x07",
        as_iterm(picture),
    ).groups()
    assert len(base64.b64decode(data)) == int(size)
    assert (decoded(data) == picture).all()
    lines = as_blocks(picture)
    assert [line.plain for line in lines] == ["▀" * 80] * 30
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="truecolor", width=100)
    print_picture(picture[:2, :1], "blocks", console)
    above, below = (";".join(map(str, pixel)) for pixel in picture[:2, 0].tolist())
    assert file.getvalue() == f"\x1b[38;2;{above};48;2;{below}m▀\x1b[0m\n"


def test_the_command_writes_the_picture_and_tells_the_row(
    made: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def show(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cambox", "show", str(made.output), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    picture = tmp_path / "pictures" / "turned.png"
    assert show("turned", "--to", str(picture)) == 0
    out = capsys.readouterr().out
    (row,) = [row for row in made.rows if row.key == "turned"]
    assert Image.open(picture).format == "PNG"
    assert f"turned: ok, {row.width} x {row.height} pixels" in out
    assert f"boxes: {len(row.objects)}" in out
    assert all(f"box_score {box.box_score:.3f}" in out for box in row.objects)
    assert f"recipe: {made.folder}" in out
    assert show("torn", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["row"]["status"], answer["problem"]) == ("unreadable", "because")
    assert show("torn", "--to", str(picture)) == 1
    assert show("nobody") == 2
    assert "no row with the key 'nobody'" in capsys.readouterr().err


def test_stored_maps_are_drawn_beside_the_boxes_of_their_class(made: Published) -> None:
    sample = find_sample(str(made.output), "turned")
    assert max(draw_sample(sample).shape) == 800
    stored = StoredMap.of(1, 1, np.array([[0.0, 1.0]]))
    columns = {name: getattr(stored, name) for name in stored.__slots__}
    assert sample.image is not None
    row = {**sample.row, "objects": [], "maps": [columns]}
    sheet = draw_sample(replace(sample, image=np.zeros_like(sample.image), row=row))
    # The black picture meets its heat map in the middle, and that is bright on its right.
    middle = sheet[sheet.shape[0] // 2].astype(int).sum(axis=1)
    assert np.flatnonzero(middle > 300).min() > sheet.shape[1] // 2 + 50
    assert (middle == 0).sum() > 100
