"""``cambox demo`` end to end: known boxes are found, and a second run does nothing again."""

from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import pytest
from rich.console import Console

from pipeline.demo.run import run_demo
from pipeline.review.localisation import measure


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


def test_hits_are_counted_per_class_and_beside_the_centre_box() -> None:
    def box(class_id: int, component: int, *sides: float) -> dict[str, object]:
        corners = dict(zip(("x_min", "y_min", "x_max", "y_max"), sides, strict=True))
        return {"class_id": class_id, "component": component, **corners}

    rows = [
        {
            "key": "a",
            "width": 100,
            "height": 100,
            "objects": [box(1, 0, 0, 0, 10, 10), box(1, 1, 50, 50, 60, 60), box(2, 0, 0, 0, 9, 9)],
        },
        {"key": "b", "width": 100, "height": 50, "objects": []},
    ]
    truth = {
        ("a", 1): [[0.0, 0.0, 10.0, 20.0], [50.0, 50.0, 60.0, 60.0], [90.0, 90.0, 99.0, 99.0]],
        ("a", 2): [[0.0, 0.0, 30.0, 30.0]],
        ("b", 1): [[10.0, 5.0, 90.0, 45.0]],
    }
    result = measure(rows, truth, 0.5)
    # Class 1 of a by exactly half; class 2 of a is too small; b has no box but is centred.
    assert (result.pairs, result.objects) == (3, 5)
    assert result.hit == pytest.approx(1 / 3)
    assert result.centre_hit == pytest.approx(1 / 3)
    assert result.found == pytest.approx(2 / 5)
    with pytest.raises(ValueError, match="none of 2 rows"):
        measure(rows, {("c", 1): [[0, 0, 1, 1]]}, 0.5)
