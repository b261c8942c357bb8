"""Shards with several images under a key, from the run to what is made of its rows."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
from PIL import Image
from rich.console import Console

from cambox.export.export import export
from cambox.export.request import ExportRequest
from cambox.output.reading import open_recipe
from cambox.review.pictures import read_pictures
from cambox.run import run
from cambox.summary import RunSummary, print_summary
from cambox.training.dataset import BoxDataset
from cambox.training.selection import Selection
from cambox.verify.verify import verify
from conftest import ConfigMaker
from makers import write_tar

WIDTHS = {"22.00": 40, "22.05": 52, "s0.depth": 44, "s0.rgb": 60}


def picture(width: int) -> bytes:
    grain = np.random.default_rng(width).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grain).resize((width, 48), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def frames(tmp_path: Path) -> str:
    files = {f"{name}.png": picture(width) for name, width in WIDTHS.items()}
    files |= {"22.05.cls": b"3", "s0.rgb.cls": b"2"}
    return str(write_tar(tmp_path / "frames.tar", sorted(files.items())))


def annotated(
    make_config: ConfigMaker, shard: str, *settings: str
) -> tuple[RunSummary, dict[str, dict], str]:
    out = io.StringIO()
    summary = run(make_config(f"input.shards={shard}", *settings), Console(file=out))
    print_summary(summary, Console(file=out, width=500))
    assert summary.complete, out.getvalue()
    rows = pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()
    return summary, {row["key"]: row for row in rows}, out.getvalue()


def test_a_lost_image_is_in_the_row_the_summary_and_the_verification(
    make_config: ConfigMaker, frames: str
) -> None:
    summary, rows, text = annotated(make_config, frames)
    assert {key: row["width"] for key, row in rows.items()} == {"22": 40, "s0": 44}
    assert [row["status"] for row in rows.values()] == ["ok", "ok"]
    assert "00.png is taken, 05.png left out; choose with input.image" in rows["22"]["error"]
    assert "warning: 2 rows are of samples with several images" in text
    assert f"in {frames} '22' has several images under one key: 00.png is taken" in text
    assert summary.to_json()["rows_with_several_images"] == 2
    verification = verify(summary.folder, against_input=True)
    assert verification.ok, verification.problems
    (remark,) = verification.remarks
    assert "2 rows are of samples with several images under one key" in remark


def test_they_can_be_refused(make_config: ConfigMaker, frames: str) -> None:
    summary = run(
        make_config(f"input.shards={frames}", "input.several_images=refuse"),
        Console(file=io.StringIO()),
    )
    (failure,) = summary.failures
    assert "'22' has several images under one key" in failure.reason
    assert failure.attempts == 1


@pytest.mark.parametrize(
    ("setting", "expected", "labels"),
    [
        ("input.several_images=name", WIDTHS, [None, [3], None, [2]]),
        ("input.image=.RGB.png", {"22": None, "s0": 60}, [None, [2]]),
    ],
)
def test_all_or_a_chosen_one_reach_every_reader(
    make_config: ConfigMaker,
    frames: str,
    tmp_path: Path,
    setting: str,
    expected: dict[str, int | None],
    labels: list[list[int] | None],
) -> None:
    summary, rows, text = annotated(make_config, frames, setting)
    assert {key: row["width"] for key, row in rows.items()} == expected
    assert [row["labels"] for row in rows.values()] == labels
    assert "warning: 2 rows" not in text
    verification = verify(summary.folder, against_input=True)
    assert verification.ok, verification.problems
    assert not verification.remarks

    some = {key: width for key, width in expected.items() if width is not None}
    every = Selection(keep_empty=True)
    dataset = BoxDataset(summary.folder, every)
    samples = map(dataset.__getitem__, range(len(dataset)))
    assert {target["key"]: image.shape[2] for image, target in samples} == some
    to = tmp_path / "coco"
    export(ExportRequest(summary.folder, "coco", to, selection=every, with_images=True))
    document = json.loads((to / "annotations.json").read_text())
    for entry in document["images"]:
        with Image.open(to / "images" / entry["file_name"]) as image:
            assert image.width == entry["width"] == some.pop(entry["key"])
    assert not some
    recipe = open_recipe(summary.folder)
    (shard,) = summary.plan.new
    sizes = {key: (width, 48) for key, width in expected.items() if width is not None}
    shown = read_pictures(shard, sizes, 10_000, recipe.image_rule)
    assert [one.problem for one in shown] == [None] * len(sizes)
