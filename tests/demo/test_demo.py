"""``cambox demo`` end to end: known boxes are found, and a second run does nothing again."""

from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
from rich.console import Console

from cambox.demo.demo import run_demo


def test_the_demo_finds_its_objects_and_shows_them(tmp_path: Path) -> None:
    output = io.StringIO()
    summary = run_demo(tmp_path, Console(file=output, width=200))
    assert summary.complete
    assert summary.samples == 240
    shares = [float(share) for share in re.findall(r"^ +([\d.]+)%", output.getvalue(), re.M)]
    hit, centre, found = shares
    assert hit > 90
    assert centre < 30
    assert found > 90
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert min(sheet.shape[:2]) > 800
    again = run_demo(tmp_path, Console(file=io.StringIO()))
    assert (len(again.reports), again.done_before) == (0, 4)
