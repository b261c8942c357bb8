"""``cambox demo`` end to end: known boxes are found, and further runs find the work done."""

from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import pytest
from rich.console import Console

from cambox.config_file import load_config
from cambox.demo.demo import run_demo
from cambox.run import run

QUIET = Console(file=io.StringIO())


def test_the_demo_finds_its_objects_and_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = io.StringIO()
    summary = run_demo(Path("demo"), Console(file=output, width=200))
    assert summary.complete
    assert summary.samples == 240
    shares = [float(share) for share in re.findall(r"^ +([\d.]+)%", output.getvalue(), re.M)]
    hit, centre, found = shares
    assert hit > 90
    assert centre < 30
    assert found > 90
    sheet = cv2.imread("demo/sheet.png")
    assert min(sheet.shape[:2]) > 800
    again = run_demo(Path("demo"), QUIET)
    assert (len(again.reports), again.done_before) == (0, 4)
    # The recipe that is known by name is that of the demo, wherever the current folder is.
    by_name = run(load_config("demo"), QUIET)
    assert by_name.recipe == summary.recipe
    assert (len(by_name.reports), by_name.done_before) == (0, 4)
