"""Labels to a detector on the GPU: probe, annotate, detect train and apply, as commands."""

from __future__ import annotations

from pathlib import Path

from bench.common import packed
from bench.gpu.files import DRY, PHOTOS, WORK
from bench.gpu.sanity import RECIPES
from bench.gpu.step import Step, run_command

# A class a photograph would leave nothing to hold out; the photographs are of these in turns.
CLASSES = 3 if DRY else 10


def labels() -> None:
    """How each command ends, and its seconds; and that the second call finds its work done."""
    step = Step("labels")
    folder = WORK / "labels"
    shards = packed(PHOTOS, folder / "shards", 100, 1, _coarse(WORK / "labels.csv", folder))
    probed, boxes, detector = folder / "probed", folder / "boxes", folder / "detector"
    network = [
        part
        for setting in (
            *RECIPES["mobilenetv2"],
            "model.name=mobilenetv2_100",
            f"input.shards=[{shards}]",
            f"output.uri={boxes}",
        )
        for part in ("--set", setting)
    ]
    epochs, side = ("1", "64") if DRY else ("2", "256")
    train = ["--backbone", str(probed / "recipe.yaml"), "--epochs", epochs, "--side", side]
    commands = {
        "probe": ["probe", "labels", "--to", str(probed), *network],
        "annotate": ["annotate", str(probed / "recipe.yaml")],
        "detect train": ["detect", "train", str(boxes), "--to", str(detector), *train],
        "detect apply": ["detect", "apply", str(detector), str(boxes), "--to", str(folder / "two")],
        "verify": ["verify", str(folder / "two")],
    }
    for name, command in commands.items():
        step.part(name, run_command, command)


def _coarse(table: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    first, *lines = table.read_text().splitlines()
    coarse = folder / "labels.csv"
    rows = [f"{line.split(',')[0]},{place % CLASSES}" for place, line in enumerate(lines)]
    coarse.write_text("\n".join([",".join(first.split(",")[:2]), *rows]) + "\n")
    return coarse
