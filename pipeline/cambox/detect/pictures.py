"""The pictures of an output as a detector's training sees them, and those held out from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from cambox.detect import BoxWeights
from cambox.detect.loss import WEIGHTS
from cambox.errors import RequestError
from cambox.training.dataset import BoxDataset
from cambox.training.sample import Transforms, of_each_box
from cambox.training.selection import share_of

# How much smaller or larger than ``side`` a picture may be in training.
SCALES = (0.75, 1.25)

Picture = tuple[torch.Tensor, dict[str, Any]]
"""An image (3, h, w) uint8, and ``boxes`` (n, 4), ``labels`` (n,) and ``WEIGHTS`` (n,)."""


@dataclass(frozen=True)
class Parts:
    """Which images of a dataset a detector is trained on and which it is judged by.

    Attributes:
        train, val: (m,) places in the dataset; ``val`` by the hash of the key.
        classes: (k,) places in the dataset's ``ClassList`` of those that have a box.
        mean_score: of all boxes.
    """

    train: np.ndarray
    val: np.ndarray
    classes: np.ndarray
    mean_score: float

    @classmethod
    def of(cls, dataset: BoxDataset, val: float) -> Parts:
        """Part a dataset.

        Args:
            val: the share that is held out, 0 to below 1.

        Raises:
            RequestError: nothing is left to train on.
        """
        held_out = np.array([share_of(key) < val for key in dataset.image_keys()], bool)
        boxes = dataset.boxes()
        if held_out.all() or not len(boxes):
            reasons = ", ".join(f"{count} {why}" for why, count in sorted(dataset.left_out.items()))
            raise RequestError(
                f"OUTPUT: no image with a box is left to train on ({reasons or 'all are held out'}"
                "); ask for less, or lower --val"
            )
        return cls(
            np.flatnonzero(~held_out),
            np.flatnonzero(held_out),
            np.unique(boxes.class_id),
            float(boxes.score.mean()),
        )


class Pictures(Dataset[Picture]):
    """Some images of a dataset, resized, in training also flipped and scaled by chance.

    Args:
        places: (m,) of the images in the dataset.
        side: the longer one, in pixels, of an image.
        seed: of an image's chances, with its place; None: it is left as it is.
        weights: ``score``: a box counts as its score is to the mean of all.
    """

    def __init__(
        self,
        dataset: BoxDataset,
        parts: Parts,
        places: np.ndarray,
        side: int,
        seed: int | None = None,
        weights: BoxWeights = BoxWeights.none,
    ) -> None:
        self.dataset, self.places, self.seed, self.weights = dataset, places, seed, weights
        self.mean_score = parts.mean_score
        # Labels of the dataset to those of the detector; 0 is the background of both.
        self.labels = torch.zeros(len(dataset.classes.ids) + 1, dtype=torch.int64)
        self.labels[parts.classes + 1] = torch.arange(1, len(parts.classes) + 1)
        self.change = resized(side) if seed is None else _varied(side)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Picture:
        place = int(self.places[index])
        # Chance is of the image alone, so that it does not matter which process reads it when.
        with torch.random.fork_rng(devices=[]):
            if self.seed is not None:
                torch.manual_seed(self.seed * 1_000_003 + place)
            image, target = self.change(*self.dataset[place])
        scores = target["scores"]
        by_score = self.weights is BoxWeights.score and self.mean_score > 0
        return image.as_subclass(torch.Tensor), {
            "boxes": target["boxes"].as_subclass(torch.Tensor),
            "labels": self.labels[target["labels"]],
            WEIGHTS: scores / self.mean_score if by_score else torch.ones_like(scores),
        }


def resized(side: int) -> Transforms:
    """An image whose longer side is that, in pixels."""
    change: Transforms = v2.Compose([v2.Resize(None, max_size=side), *_whole_boxes()])
    return change


def _varied(side: int) -> Transforms:
    change: Transforms = v2.Compose(
        [v2.RandomHorizontalFlip(), v2.ScaleJitter((side, side), SCALES), *_whole_boxes()]
    )
    return change


def _whole_boxes() -> list[Any]:
    """Boxes within their image; a box that resizing leaves nothing of is dropped."""
    return [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(labels_getter=of_each_box)]


def collated(batch: Sequence[Picture]) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """Images differ in size, so a batch is a list of them."""
    return [image for image, _ in batch], [target for _, target in batch]


def on_device(
    images: Sequence[torch.Tensor], targets: Sequence[Mapping[str, Any]], device: torch.device
) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """A batch where the detector is: images as numbers from 0 to 1."""
    return (
        [image.to(device, non_blocking=True).float() / 255 for image in images],
        [{name: value.to(device) for name, value in target.items()} for target in targets],
    )
