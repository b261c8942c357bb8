"""Close the loop: boxes from a classifier train a detector, judged with true boxes.

Three detectors that differ only in the boxes they are trained on: those that cambox found, the
true ones, and one in the middle of the picture for each of its classes.
"""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import timm
import torch
import typer
from rich.console import Console
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.transforms import v2

from cambox.boxes import Boxes, centre_box
from cambox.demo import CLASSIFIER, write_config
from cambox.demo.scenes import CLASS_NAMES, write_scenes
from cambox.output.rows import SIDES
from cambox.review.evaluate.detection import match
from cambox.run import run
from cambox.sources.pack import pack
from cambox.training.dataset import BoxDataset
from cambox.training.sample import DetectionSample, collate, of_each_box
from cambox.training.selection import Selection
from research.training import DEMO, MEAN, SIDE, STD

# Neither the demo's own pictures nor those that its classifier was trained or judged with.
FIRST_TRAINING_SEED = 3_000_000
FIRST_HELD_OUT_SEED = 4_000_000
BATCH_SIZE = 16
PEAK_LEARNING_RATE = 1e-3
TITLES = {
    "ours": "the boxes that cambox found",
    "true": "the true boxes",
    "centre": "a box in the middle for each class, 0.8 of each side",
}
KINDS = tuple(TITLES)

BoxesByKey = dict[str, Boxes]
"""Of each picture, in its pixels; ``class_id`` is the label, from 1."""


@dataclass(frozen=True)
class Result:
    """One detector: mean over the classes of COCO's average precision on held-out pictures."""

    boxes: str
    seed: int
    map_50: float
    map_50_95: float
    seconds: float


class Backbone(torch.nn.Module):
    """The demo's classifier without its head: pictures (B, 3, S, S) to (B, C, S / 8, S / 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = timm.create_model(DEMO.name, **DEMO.kwargs)
        self.classifier.load_state_dict(load_file(CLASSIFIER))
        self.out_channels = int(self.classifier.num_features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.classifier.forward_features(images)
        return features


def make_detector() -> torch.nn.Module:
    """A small FCOS; its head is random, its backbone knows classes and no boxes."""
    backbone = Backbone()
    detector: torch.nn.Module = FCOS(
        backbone,
        num_classes=len(CLASS_NAMES) + 1,
        anchor_generator=AnchorGenerator(sizes=((8,),), aspect_ratios=((1.0,),)),
        head=FCOSHead(backbone.out_channels, 1, len(CLASS_NAMES) + 1, num_convs=2),
        fixed_size=(SIDE, SIDE),
        image_mean=MEAN,
        image_std=STD,
        score_thresh=0.02,
    )
    return detector


def annotate_scenes(folder: Path, count: int, first_seed: int) -> tuple[str, BoxesByKey]:
    """Make pictures and run cambox on them: its output, and the true boxes."""
    write_scenes(folder, range(first_seed, first_seed + count))
    pack(folder / "images", folder / "shards", folder / "labels.csv", 200)
    output = run(write_config(folder), Console(quiet=True)).folder
    corners, labels = defaultdict(list), defaultdict(list)
    with (folder / "boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = Path(row["image"]).stem
            corners[key].append([float(row[side]) for side in SIDES])
            labels[key].append(int(row["class_index"]) + 1)
    return output, {key: Boxes.of(corners[key], class_id=labels[key], score=1) for key in corners}


def centre_boxes(dataset: BoxDataset) -> BoxesByKey:
    """A box in the middle for each class that cambox has a box of."""
    found: BoxesByKey = {}
    for image in map(dataset.labelled, range(len(dataset))):
        labels = np.unique(image.boxes.class_id) + 1
        corners = np.repeat(centre_box(image.width, image.height), len(labels), axis=0)
        found[image.key] = Boxes.of(corners, class_id=labels, score=1)
    return found


def pictures(dataset: BoxDataset, boxes: BoxesByKey | None = None) -> list[DetectionSample]:
    """All pictures of a dataset at the detector's input size, with their own boxes or others."""
    shrink = v2.Compose(
        [
            v2.Resize((SIDE, SIDE)),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(labels_getter=of_each_box),
        ]
    )
    samples: list[DetectionSample] = []
    for image, target in map(dataset.__getitem__, range(len(dataset))):
        if boxes is not None:
            own = boxes[target["key"]]
            target["boxes"] = tv_tensors.BoundingBoxes(
                own.corners.astype(np.float32), format="XYXY", canvas_size=image.shape[1:]
            )
            target["labels"] = torch.from_numpy(own.class_id)
            target["scores"] = torch.from_numpy(own.score.astype(np.float32))
        samples.append(shrink(image, target))
    return samples


def train(samples: list[DetectionSample], epochs: int, seed: int) -> FCOS:
    """Train a detector; the seed settles its head, the order and the flips."""
    torch.manual_seed(seed)
    detector = make_detector().train()
    vary = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomChannelPermutation(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    loader: DataLoader[DetectionSample] = DataLoader(
        samples,  # type: ignore[arg-type]  # a list does as well as a Dataset
        BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        collate_fn=lambda batch: collate([vary(*sample) for sample in batch]),
    )
    optimizer = torch.optim.AdamW(detector.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=epochs * len(loader), pct_start=0.2
    )
    for _ in range(epochs):
        for images, targets in loader:
            losses = detector(images, targets)
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return detector.eval()


@torch.inference_mode()
def average_precision(detector: FCOS, samples: list[DetectionSample]) -> tuple[float, float]:
    """COCO's mean average precision at IoU 0.5, and over all of COCO's thresholds."""
    found: list[Boxes] = []
    true: list[Boxes] = []
    for number, (image, target) in enumerate(samples):
        (result,) = detector([image / 255])
        for boxes, to in ((result, found), (target, true)):
            to.append(
                Boxes.of(
                    np.asarray(boxes["boxes"]),
                    image=number,
                    class_id=boxes["labels"],
                    score=boxes["scores"],
                )
            )
    classes = match(Boxes.joined(found), Boxes.joined(true))
    each = np.array([one.average_precision for one in classes if len(one.true_image)])
    return float(each[:, 0].mean()), float(each.mean())


def table(results: Sequence[Result]) -> str:
    """The table of the docs."""
    lines = ["| trained on | mAP at IoU 0.5, of each seed | mean | of the true boxes' |"]
    lines.append("|---|---|---|---|")
    means = {kind: mean(r.map_50 for r in results if r.boxes == kind) for kind in KINDS}
    for kind in KINDS:
        each = ", ".join(f"{100 * r.map_50:.1f}" for r in results if r.boxes == kind)
        share = means[kind] / means["true"]
        lines.append(f"| {TITLES[kind]} | {each} | {100 * means[kind]:.1f} | {share:.2f} |")
    return "\n".join(lines)


def main(
    to: Annotated[Path, typer.Option(help="The figures.")] = Path("docs/detector.json"),
    scenes: Annotated[int, typer.Option(min=BATCH_SIZE, help="Pictures to train on.")] = 800,
    held_out: Annotated[int, typer.Option(min=1, help="Pictures to judge with.")] = 300,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Detectors of each kind.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; they shape rounding.")] = 2,
) -> None:
    """Train detectors on the demo's pictures with three kinds of boxes and compare them."""
    torch.set_num_threads(threads)
    console = Console()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output, true = annotate_scenes(folder / "train", scenes, FIRST_TRAINING_SEED)
        dataset = BoxDataset(output)
        judged_output, judged_true = annotate_scenes(
            folder / "held-out", held_out, FIRST_HELD_OUT_SEED
        )
        judged = pictures(BoxDataset(judged_output, Selection(keep_empty=True)), judged_true)
        boxes = {"ours": None, "true": true, "centre": centre_boxes(dataset)}
        for kind in KINDS:
            samples = pictures(dataset, boxes[kind])
            for seed in range(seeds):
                start = time.monotonic()
                scores = average_precision(train(samples, epochs, seed), judged)
                results.append(Result(kind, seed, *scores, time.monotonic() - start))
                console.print(f"{kind}, seed {seed}: mAP {scores[0]:.3f} at IoU 0.5")
    made_with = {"scenes": scenes, "held_out": held_out, "epochs": epochs, "images": len(dataset)}
    document = {"made_with": made_with, "results": [asdict(result) for result in results]}
    to.write_text(json.dumps(document, indent=1) + "\n")
    console.print(table(results), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
