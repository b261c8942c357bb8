"""A night after a review: shards are packed anew, and what people corrected stays."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import cambox
from cambox.config import Config
from cambox.output.reviewed import read_reviewed
from cambox.review.corrections.take import take_corrections
from cambox.review.evaluate.evaluate import evaluate
from cambox.run import run

ConfigMaker = Callable[..., Config]


def pack_anew(path: Path, change: Mapping[str, bytes]) -> None:
    """Write a shard in another order, with some members changed."""
    with tarfile.open(path) as archive:
        files = {one.name: archive.extractfile(one) for one in archive.getmembers()}
        members = {name: file.read() for name, file in files.items() if file is not None}
    keys = sorted({name.split(".")[0] for name in members}, reverse=True)
    with tarfile.open(path, "w") as archive:
        for name in sorted(members, key=lambda name: (keys.index(name.split(".")[0]), name)):
            data = change.get(name, members[name])
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def rows_of(output: str) -> dict[str, dict[str, Any]]:
    table = cambox.read(output).to_table(columns=["key", "shard", "objects", "width", "height"])
    return {row["key"]: row for row in table.to_pylist()}


def test_the_next_night_keeps_corrected_boxes_but_those_of_a_picture_that_changed(
    make_config: ConfigMaker,
    shards: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    config = make_config(f"input.shards=[{tmp_path / 'shards' / '*.tar'}]")
    assert run(config, Console(quiet=True)).complete
    before = rows_of(config.output.uri)
    first, second, *_ = [row for row in before.values() if row["shard"].endswith("000000.tar")]
    other = next(row for row in before.values() if row["shard"] != first["shard"])
    reviewed = {row["key"]: row for row in (first, second, other)}
    document = {
        "images": [
            {
                "id": number,
                "file_name": f"{key}.jpg",
                "width": row["width"],
                "height": row["height"],
            }
            for number, (key, row) in enumerate(reviewed.items())
        ],
        "annotations": [
            {"image_id": number, "category_id": 1, "bbox": [2, 3, 20, 25]} for number in range(3)
        ],
        "categories": [{"id": 1, "name": "4"}],
    }
    monkeypatch.chdir(tmp_path)
    Path("reviewed.json").write_text(json.dumps(document))
    judged = evaluate(config.output.uri, "reviewed.json", 100, sweep_thresholds=False)
    assert take_corrections("reviewed.json", config.output.uri).complete
    # The recipe is no better for what people have mended.
    again = evaluate(config.output.uri, "reviewed.json", 100, sweep_thresholds=False)
    remark = "3 rows are reviewed: what the recipe made of them is judged, not what people did"
    assert again == judged.model_copy(update={"remarks": (*judged.remarks, remark)})

    changed = (pictures / "picture-11.jpg").read_bytes()
    pack_anew(Path(first["shard"]), {f"{second['key']}.jpg": changed})
    said = io.StringIO()
    assert run(config, Console(file=said, width=200)).complete
    assert "1 stay, 1 of pictures that have changed since" in said.getvalue()

    after = rows_of(config.output.uri)
    for key in (first["key"], other["key"]):
        (box,) = after[key]["objects"]
        corners = [box[side] for side in ("x_min", "y_min", "x_max", "y_max")]
        assert (corners, box["class_id"], box["box_score"]) == ([2, 3, 22, 28], 4, 1.0)
    # The new picture has boxes of its own; and what was said of the old one is not forgotten.
    assert all(box["box_score"] < 1 for box in after[second["key"]]["objects"])
    assert len(read_reviewed(config.output.uri)) == 3
