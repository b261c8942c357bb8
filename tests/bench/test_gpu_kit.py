"""The GPU kit, as far as it goes without a GPU and without its folder of files."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.gpu import step as kit
from bench.gpu import summary
from bench.gpu.__main__ import STEPS
from bench.gpu.likeness import likeness, read_rows
from bench.throughput import Timing
from cambox.boxes import Boxes
from cambox.output.rows import ClassScore, Row, StoredMap, table
from makers import ROOT

MAP = np.arange(16, dtype=np.float32).reshape(4, 4)


def write_output(folder: Path, shift: float, last: float, samples: int) -> None:
    """Rows with a box of 10 x 10, moved to the right, and a map with another last cell."""
    score_map = MAP.copy()
    score_map[3, 3] = last
    rows = [
        Row(
            key=f"key-{number}",
            shard=f"{folder}/shard-000000.tar",
            sample_index=number,
            status="ok",
            error=None,
            width=40,
            height=40,
            labels=(1,),
            classes=(ClassScore(1, 1, 0.5),),
            maps=(StoredMap.of(1, 1, score_map),),
        )
        for number in range(samples)
    ]
    corners = np.tile([shift, 0, 10 + shift, 10], (samples, 1))
    boxes = Boxes.of(corners, image=np.arange(samples), class_id=1, rank=1, score=0.5)
    folder.mkdir()
    pq.write_table(table(rows, boxes, ("a", "b"), True), folder / "rows.parquet")


def test_outputs_are_compared_by_sample(tmp_path: Path) -> None:
    # Moved by 1 of 10 two boxes have 9 of 11 in common.
    for name, shift, last, samples in (("a", 0, 15, 3), ("b", 0, 15, 2), ("c", 1, 20, 3)):
        write_output(tmp_path / name, shift, last, samples)
    a, b, c = (read_rows(tmp_path / name) for name in "abc")
    same = likeness(a, b)
    assert same["rows"] == [3, 2, 2]
    assert same["rows identical but for maps"] == 2
    assert same["IoU above 0.99"] == 1
    assert same["map distance, mean over spread: median, 99 %"] == [0, 0]
    moved = likeness(a, c)
    assert moved["rows identical but for maps"] == 0
    assert moved["boxes matched at 0.5"] == 3
    assert moved["their IoU: median, 1 %"] == [round(9 / 11, 5)] * 2
    assert moved["IoU of the label's largest box: median, 5 %"] == [round(9 / 11, 5)] * 2
    assert moved["map distance, mean over spread: median, 99 %"][0] > 0.01


def test_a_part_that_fails_is_told_and_the_next_one_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(kit.Step, "failed", [])
    monkeypatch.setattr(summary, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(summary, "WORK", tmp_path)
    (tmp_path / "steps.txt").write_text("made up: exit code 1\n")
    step = kit.Step("made-up")
    step.part("first", divmod, 1, 0)
    step.part("second", divmod, 7, 2)
    assert step.failed == ["first"]
    cases = [Timing("network", 4.0, [2.0, 3.0], 1.0), Timing("peer", error="no memory")]
    document = {"gpu": None, "precision": "float32", "batch": 4, "images": 8, "cases": cases}
    (tmp_path / "results" / "case.json").write_text(json.dumps(document, default=asdict))
    summary.summary(tmp_path)
    text = (tmp_path / "summary.txt").read_text()
    assert "made up: exit code 1" in text
    assert '"error": "ZeroDivisionError' in text
    assert "second: [3, 1]" in text
    assert re.search(r"network +2\.5000 +400 +1\.000", text)
    assert re.search(r"peer +no memory", text)
    assert json.loads((tmp_path / "results.json").read_text())["made-up"]["second"] == [3, 1]


def test_each_step_of_the_script_is_there() -> None:
    script = (ROOT / "bench" / "gpu" / "on_device.sh").read_text()
    called = set(re.findall(r"-m bench\.gpu (\w+)", script))
    called |= {"sanity", "labels", "under_load", "forward", "jpeg"}
    # What the steps keep free for each other leaves some seconds for the first.
    kept = [int(least) for least in re.findall(r'^  "\w+ \d+ (\d+)"$', script, re.M)]
    budget = re.search(r"BUDGET:-(\d+)", script)
    assert budget is not None
    assert len(kept) == 16
    assert sum(kept) <= int(budget[1])
    assert called == set(STEPS)
    for name, module in STEPS.items():
        assert callable(getattr(import_module(f"bench.gpu.{module}"), name))
