"""docs/labels.md: from pictures in folders of their classes to a detector's boxes, by its words."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cambox import read
from cambox.cli import main
from cambox.demo import CLASSIFIER
from cambox.demo.painting import (
    fill_silhouette,
    paint_background,
    paint_texture,
    random_silhouette,
)
from makers import ROOT

# In the order of folders, which is none of the demo's classifier.
NAMES = ("brick", "dotted", "striped")
OF_EACH = 16
SIDE = 96

# What stands in for a network from a hub, and for hours of training.
NETWORK = {
    "model.name": "resnet18",
    "model.kwargs": "{layers: [1, 1, 1, 1], channels: [32, 48, 64, 96], output_stride: 8}",
    "model.checkpoint": str(CLASSIFIER),
    "model.pretrained": "false",
    "model.input_size": "128",
    "model.class_input_size": "null",
    "model.mean": "[0.5, 0.5, 0.5]",
    "model.std": "[0.5, 0.5, 0.5]",
}
SMALLER = {
    "probe": [word for setting in NETWORK.items() for word in ("--set", "=".join(setting))],
    "detect train": ["--side", "64", "--epochs", "2", "--lr", "2e-3"],
    "detect apply": ["--min-score", "0.05"],
}


def paint(name: str, seed: int) -> np.ndarray:
    """(96, 96, 3) uint8 BGR, one object somewhere on a background."""
    generator = np.random.default_rng(seed)
    canvas = paint_background(generator, SIDE, SIDE)
    outline = random_silhouette(generator, 0.3 * SIDE * SIDE)
    middle = generator.uniform(0.35 * SIDE, 0.65 * SIDE, 2)
    coverage = fill_silhouette(outline + middle, SIDE, SIDE)
    paint_texture(generator, canvas, coverage, name)
    return np.clip(canvas, 0, 255).astype(np.uint8)[:, :, ::-1]


def test_the_six_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(NAMES):
        (Path("photos") / name).mkdir(parents=True)
        for number in range(OF_EACH):
            picture = paint(name, OF_EACH * place + number)
            cv2.imwrite(f"photos/{name}/{number:02d}.jpg", picture)
    page = (ROOT / "docs" / "labels.md").read_text()
    (block,) = re.findall(r"^```sh photos\n(.*?)^```$", page, re.M | re.S)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(commands) == 6
    for words in commands:
        wanted = [more for name, more in SMALLER.items() if " ".join(words[1:]).startswith(name)]
        monkeypatch.setattr(sys, "argv", [*words, *(word for more in wanted for word in more)])
        # As in a process of its own: what came before may have taken more threads than is well.
        torch.set_num_threads(1)
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, words

    report = json.loads(Path("probed/report.json").read_text())
    assert [one["name"] for one in report["classes"]] == list(NAMES)
    assert report["pictures"] == len(NAMES) * OF_EACH
    assert report["activation"] == "softmax"
    # By chance a third, with a standard deviation of 0.07.
    assert report["held_out"]["accuracy"] > 0.67

    for output in ("out", "second"):
        rows = read(output).to_table().to_pylist()
        assert len(rows) == len(NAMES) * OF_EACH
        shown = {
            (Path(row["key"]).parent.name, box["class_name"], box["rank"])
            for row in rows
            for box in row["objects"]
        }
        assert shown == {(name, name, 0) for name in NAMES}, output

    annotations = json.loads(Path("coco/annotations.json").read_text())
    assert [one["name"] for one in annotations["categories"]] == list(NAMES)
    exported = {one["id"]: one["file_name"] for one in annotations["images"]}
    assert len(exported) > len(NAMES) * OF_EACH / 2
    assert {one["image_id"] for one in annotations["annotations"]} == set(exported)
    assert all((Path("coco/images") / name).is_file() for name in exported.values())
