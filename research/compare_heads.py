"""Frozen or derivative? Heads that are not affine, distilled from a real classifier, compared.

There are no weights at hand of a network with such a head, so heads are made: behind the features
of a MobileNet, a LayerNorm and a linear layer (as ConvNeXt has) and a hidden layer with hardswish
(as MobileNetV3 has) learn the scores that the MobileNet's own head gives to crops of the
photographs. The features, and so the best that any map can do, are those of the real network.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from cambox.cams.score_maps import image_score_maps
from cambox.config import ModelSettings
from cambox.models.classifier import Classifier
from cambox.models.heads import AffineHead, FeatureGrid, HeadKind, Layout, PooledHead
from cambox.models.load import load_classifier
from research.hit_rates import IOUS, LARGEST, overlaps, table
from research.photographs import Photographs, decoded

CROPS = 8
SIDE = 224
THRESHOLDS = np.round(np.arange(0.10, 0.71, 0.02), 2)


@dataclass(frozen=True)
class Result:
    """Shares of photographs whose largest box hits, each at its best threshold.

    Attributes:
        agreement: photographs whose best class is the real head's.
        hits: by IoU.
    """

    head: str
    weights: str
    agreement: float
    hits: dict[str, float]
    best_thresholds: dict[str, float]


def features_of(classifier: Classifier, images: NDArray[np.uint8], title: str) -> torch.Tensor:
    """Feature maps (N, C, h, w)."""
    parts = np.array_split(images, max(1, len(images) // 32))
    return torch.cat([classifier.scores(part).feature_map for part in track(parts, title)])


def random_crops(images: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """One crop of each picture, a quarter to all of its area, flipped by chance."""
    crops = np.empty_like(images)
    for index, image in enumerate(images):
        side = int(SIDE * generator.uniform(0.5, 1.0))
        top, left = generator.integers(SIDE - side + 1, size=2)
        crop = image[top : top + side, left : left + side]
        crops[index] = cv2.resize(crop, (SIDE, SIDE))[:, :: generator.choice([-1, 1])]
    return crops


def distil(head: nn.Module, pooled: torch.Tensor, scores: torch.Tensor) -> None:
    """Teach a head the scores (N, K) for pooled features (N, C)."""
    torch.manual_seed(0)
    epochs, batch = 30, 128
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=epochs * (len(pooled) // batch)
    )
    target = scores.log_softmax(dim=1)
    for _ in track(range(epochs), "distilling"):
        order = torch.randperm(len(pooled))[: len(pooled) // batch * batch]
        for chosen in order.view(-1, batch):
            guess = head(pooled[chosen]).log_softmax(dim=1)
            loss = F.kl_div(guess, target[chosen], log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    head.eval().requires_grad_(False)


def measure(
    title: str, weights: str, agreement: float, maps: torch.Tensor, photographs: Photographs
) -> Result:
    """The best threshold for all photographs, for each IoU."""
    best = overlaps(maps.numpy(), photographs.corners, SIDE, THRESHOLDS, min_area=0.0, max_boxes=1)[
        LARGEST
    ]
    rates = {iou: (best >= iou).mean(axis=0) for iou in IOUS}
    return Result(
        title,
        weights,
        agreement,
        {str(iou): float(rate.max()) for iou, rate in rates.items()},
        {str(iou): float(THRESHOLDS[rate.argmax()]) for iou, rate in rates.items()},
    )


def main(
    shared: Annotated[Path, typer.Argument(help="Folder with data/ and weights/")],
    to: Annotated[Path, typer.Option(help="The figures, as JSON")] = Path("docs/heads.json"),
) -> None:
    """Compare the maps of distilled heads on real photographs with true boxes."""
    torch.set_num_threads(2)
    settings = ModelSettings(
        name="mobilenetv2_100",
        checkpoint=str(shared / "weights" / "mobilenetv2_100_coral_ptq.safetensors"),
        kwargs={"pad_type": "same", "bn_eps": 1e-3},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    teacher = load_classifier(settings, torch.device("cpu"), "float32")
    assert isinstance(teacher.head, AffineHead)
    photographs = Photographs.read(shared / "data" / "imagenet-val-650")
    images = np.stack(
        [
            cv2.resize(decoded(file), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            for file in photographs.files
        ]
    )
    generator = np.random.default_rng(0)
    features = features_of(teacher, images, "features")
    pooled = [features.mean((2, 3))]
    for crop in range(CROPS):
        crops = random_crops(images, generator)
        pooled.append(features_of(teacher, crops, f"crops {crop + 1}/{CROPS}").mean((2, 3)))
    vectors = torch.cat(pooled)
    scores = teacher.head.logits(vectors)
    channels, classes = vectors.shape[1], scores.shape[1]
    class_ids = torch.tensor(photographs.classes)[:, None]
    own = image_score_maps(features, teacher.head.weight[class_ids])[:, 0]
    results = [measure("the network's own", "affine", 1.0, own, photographs)]
    heads = {
        "LayerNorm, linear": nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, classes)),
        "linear, hardswish, linear": nn.Sequential(
            nn.Linear(channels, channels), nn.Hardswish(), nn.Linear(channels, classes)
        ),
    }
    grid = FeatureGrid(Layout.channels_first, features.shape[2], features.shape[3])
    for title, head in heads.items():
        distil(head, vectors, scores)
        guess = head(pooled[0]).argmax(dim=1)
        agreement = float((guess == scores[: len(guess)].argmax(dim=1)).float().mean())
        flat = nn.Sequential(nn.Flatten(), head)
        for rule in (HeadKind.frozen, HeadKind.derivative):
            weights = PooledHead(grid, flat, rule).class_weights(pooled[0], class_ids)
            maps = image_score_maps(features, weights)[:, 0]
            results.append(measure(title, rule, agreement, maps, photographs))
    Console().print(table(results), highlight=False, soft_wrap=True)
    to.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
