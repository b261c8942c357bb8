"""What a probe's boxes are worth beside those of the head that it replaces.

Photographs of ImageNet's classes, these as coarse groups (``coarse_groups.yaml``): a probe learns
the groups from the labels of one half, and both it and the network's own head, its classes as the
same groups, box the other half; then the halves change places.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torchvision
import typer
from rich.console import Console

import cambox
from cambox.config_file import load_config
from cambox.linear_probe.probe import ProbeRequest, probe
from cambox.models.groups import ClassGroups, read_groups
from cambox.output.rows import SIDES
from cambox.review.evaluate.evaluate import evaluate
from cambox.review.evaluate.report import Unmeasured
from cambox.run import run
from cambox.sources.pack import pack

QUIET = Console(quiet=True)
GROUPS = Path(__file__).parent / "coarse_groups.yaml"


def write_halves(folders: list[Path], groups: ClassGroups, to: Path) -> None:
    """Every other photograph of each folder into ``0/`` or ``1/``, packed, with its true boxes."""
    group_of = {member: place for place, some in enumerate(groups.members) for member in some}
    labels: list[dict[str, int]] = [{}, {}]
    boxes: list[list[tuple[object, ...]]] = [[], []]
    for folder in folders:
        with (folder / "images.csv").open(newline="") as file:
            for place, row in enumerate(csv.DictReader(file)):
                labels[place % 2][row["image"]] = group_of[int(row["class_index"])]
                (to / f"{place % 2}" / "images").mkdir(parents=True, exist_ok=True)
                link = to / f"{place % 2}" / "images" / row["image"]
                link.symlink_to((folder / "images" / row["image"]).absolute())
        if not (folder / "boxes.csv").exists():
            continue
        with (folder / "boxes.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                half = int(row["image"] in labels[1])
                corners = [row[side] for side in SIDES]
                boxes[half].append((row["image"], labels[half][row["image"]], *corners))
    (to / "names.txt").write_text("".join(f"{name}\n" for name in groups.names))
    for half in range(2):
        for name, columns, rows in (
            ("labels.csv", ("image", "class_index"), labels[half].items()),
            ("boxes.csv", ("image", "class_index", *SIDES), boxes[half]),
        ):
            with (to / f"{half}" / name).open("w", newline="") as file:
                csv.writer(file).writerows([columns, *rows])
        folder = to / f"{half}"
        pack(
            folder / "images",
            folder / "shards",
            folder / "labels.csv",
            class_names=to / "names.txt",
        )


def figures(output: str, truth: Path) -> dict[str, float]:
    """Accuracy over all pictures, and of the boxes of given labels, in per cent."""
    rows = cambox.read(output).to_table(columns=["labels", "classes"]).to_pylist()
    right = [row["classes"][0]["class_id"] in row["labels"] for row in rows if row["classes"]]
    report = evaluate(output, str(truth), resamples=100)
    assert not isinstance(report.gt_known, Unmeasured)
    assert not isinstance(report.max_box, Unmeasured)
    known = {at.iou: at.share.output.value or 0.0 for at in report.gt_known}
    return {
        "accuracy": 100 * float(np.mean(right)),
        **{f"GT-known {iou}": 100 * value for iou, value in known.items()},
        "V2": 100 * (report.max_box.max_box_acc_v2_mean.output.value or 0.0),
    }


def compared(overrides: list[str], folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Each half in turn: the probe of the other half, then the network's own head."""
    for half in range(2):
        shards, truth = folder / f"{half}" / "shards", folder / f"{half}" / "boxes.csv"
        given = ["cam.classes=both", "output.store_maps=true", *overrides]
        here = f"input.shards=[{shards}/*.tar]"
        other = f"input.shards=[{folder}/{1 - half}/shards/*.tar]"
        to = folder / f"probe-{half}"
        learns = load_config("precise", [*given, other, f"output.uri={to}/boxes"])
        probe(ProbeRequest(learns, to, f"{to}/features"), QUIET)
        boxed = run(load_config(to / "recipe.yaml", [here]), QUIET)
        yield f"probe, half {half}", figures(boxed.folder, truth)
        groups = [f"model.class_groups={GROUPS}", f"output.uri={folder}/own-{half}"]
        boxed = run(load_config("precise", [*given, here, *groups]), QUIET)
        yield f"own head, half {half}", figures(boxed.folder, truth)


def main(
    folders: Annotated[
        list[Path], typer.Argument(help="With images/, images.csv and, if known, boxes.csv")
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="The network, as for cambox annotate")
    ] = None,
) -> None:
    """Compare a probe's boxes with those of the network's own head."""
    names = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    groups = read_groups(str(GROUPS), names)
    with TemporaryDirectory() as name:
        write_halves(folders, groups, Path(name))
        for what, found in compared(overrides or [], Path(name)):
            shown = ", ".join(f"{key} {value:.1f}" for key, value in found.items())
            Console().print(f"{what}: {shown}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
