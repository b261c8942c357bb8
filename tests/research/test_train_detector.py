"""The parts of research/train_detector.py that a figure depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from cambox.training.dataset import BoxDataset
from cambox.verify.verify import verify
from research.train_detector import Result, annotate_scenes, centre_boxes, table, with_boxes


def test_other_boxes_are_those_that_are_meant(tmp_path: Path) -> None:
    output, true = annotate_scenes(tmp_path / "scenes", 6, 7_000_000)
    centre = with_boxes(output, str(tmp_path / "centre"), centre_boxes)
    assert verify(true).ok
    assert verify(centre).ok
    own, known, middle = (
        {image.key: image for image in map(dataset.labelled, range(len(dataset)))}
        for dataset in map(BoxDataset, (output, true, centre))
    )
    lines = (tmp_path / "scenes" / "boxes.csv").read_text().splitlines()[1:]
    assert sum(len(image.boxes) for image in known.values()) == len(lines)
    for line in lines:
        name, class_id, *numbers = line.split(",")
        boxes = known[Path(name).stem].boxes
        rows = zip(boxes.corners.tolist(), boxes.class_id.tolist(), strict=True)
        assert ([*map(float, numbers)], int(class_id)) in rows
    for key, image in middle.items():
        assert image.boxes.class_id.tolist() == sorted(set(own[key].boxes.class_id.tolist()))
        expected = [part * side for part in (0.1, 0.9) for side in (image.width, image.height)]
        assert image.boxes.corners.tolist() == [pytest.approx(expected)] * len(image.boxes)


def test_the_table_compares_means_with_the_true_boxes() -> None:
    results = [
        Result(kind, seed, share, share / 2, 1.0)
        for kind, shares in {"ours": (0.7, 0.8), "true": (0.9, 0.7), "centre": (0.2, 0.2)}.items()
        for seed, share in enumerate(shares)
    ]
    rows = table(results).splitlines()
    assert rows[2] == "| the boxes that cambox found | 70.0, 80.0 | 75.0 | 0.94 |"
    assert rows[3] == "| the true boxes | 90.0, 70.0 | 80.0 | 1.00 |"
    assert rows[4].endswith("| 20.0, 20.0 | 20.0 | 0.25 |")
