"""Real photographs, a real classifier, true boxes: the figures others measured independently."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path

import pyarrow.dataset
import pytest
import torch
import torchvision
from rich.console import Console

from cambox.config import Config
from cambox.review.evaluate.evaluate import evaluate
from cambox.review.evaluate.report import Unmeasured
from cambox.run import run
from cambox.sources.pack import pack


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = shared / "data" / "imagenet-val-650"
    folder = tmp_path_factory.mktemp("photographs")
    pack(source / "images", folder, source / "images.csv", samples_per_shard=200)
    return folder


def annotate(photographs: Path, shared: Path, output: Path, **sections: dict) -> list[dict]:
    weights = shared / "weights" / "mobilenetv2_100_coral_ptq.safetensors"
    document = {
        "input": {"shards": [str(photographs / "*.tar")]},
        "model": {
            "name": "mobilenetv2_100",
            "checkpoint": str(weights),
            "kwargs": {"pad_type": "same", "bn_eps": 1e-3},
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
        "output": {"uri": str(output)},
        **sections,
    }
    summary = run(Config.model_validate(document), Console(file=io.StringIO()))
    assert summary.complete
    return pyarrow.dataset.dataset(summary.folder).to_table().to_pylist()


def test_the_label_is_among_the_predicted_classes(
    photographs: Path, shared: Path, tmp_path: Path
) -> None:
    rows = annotate(photographs, shared, tmp_path, cam={"classes": "predicted", "top_k": 5})
    assert len(rows) == 650
    assert {row["status"] for row in rows} == {"ok"}
    ranked = [[entry["class_id"] for entry in row["classes"]] for row in rows]
    labels = [row["labels"][0] for row in rows]
    first = sum(classes[0] == label for classes, label in zip(ranked, labels, strict=True))
    among = sum(label in classes for classes, label in zip(ranked, labels, strict=True))
    assert first / 650 >= 0.77
    assert among / 650 >= 0.94


@pytest.mark.parametrize(("tau", "expected"), [(0.28, 0.603), (0.36, 0.578)])
def test_the_largest_box_of_the_label_hits_as_often_as_measured_elsewhere(
    photographs: Path, shared: Path, tmp_path: Path, tau: float, expected: float
) -> None:
    rows = annotate(
        photographs,
        shared,
        tmp_path,
        cam={"classes": "label", "truncate": False},
        boxes={"threshold": tau, "percentile": 100, "interpolation": "bicubic"},
    )
    truth: dict[str, list[list[float]]] = defaultdict(list)
    with (shared / "data" / "imagenet-val-650" / "boxes.csv").open() as file:
        for line in csv.DictReader(file):
            sides = [float(line[side]) for side in ("x_min", "y_min", "x_max", "y_max")]
            truth[Path(line["image"]).stem].append(sides)
    hits = 0
    for row in rows:
        largest = [box for box in row["objects"] if box["component"] == 0]
        if largest:
            sides = [largest[0][side] for side in ("x_min", "y_min", "x_max", "y_max")]
            overlaps = torchvision.ops.box_iou(
                torch.tensor([sides]), torch.tensor(truth[row["key"]])
            )
            hits += bool(overlaps.max() >= 0.5)
    assert hits / 650 == pytest.approx(expected, abs=0.015)

    truth_file = shared / "data" / "imagenet-val-650" / "boxes.csv"
    report = evaluate(str(tmp_path), str(truth_file), resamples=100)
    assert not isinstance(report.gt_known, Unmeasured)
    at_half = report.gt_known[1].share
    assert at_half.output.value == pytest.approx(hits / 650)
    assert at_half.centre_box.value == pytest.approx(0.62, abs=0.001)
