"""An image with its boxes in the form that torchvision's detectors and transforms take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torchvision import tv_tensors

from cambox.errors import ShardError
from cambox.sources.decode import DecodeError, decode_image
from cambox.training.labelled import LabelledImage


class Target(TypedDict):
    """What a torchvision detector is trained with, and what tells the image again.

    boxes: ``tv_tensors.BoundingBoxes`` (n, 4) float32, XYXY in pixels of the upright image.
    labels: (n,) int64 from 1; 0 is the background.
    scores: (n,) float32, ``box_score``.
    image_id: the number of the row in the recipe's folder.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    image_id: int
    key: str


DetectionSample = tuple[torch.Tensor, Target]
"""An image, ``tv_tensors.Image`` (3, H, W) uint8, and its target."""

Transforms = Callable[[Any, Any], Any]
"""Takes an image and a target and gives both: any of ``torchvision.transforms.v2``."""


def detection_sample(
    image: LabelledImage, data: bytes, max_pixels: int, transforms: Transforms | None
) -> DetectionSample:
    """Decode an image as annotating does (upright, RGB) and join it with its boxes.

    Raises:
        ShardError: the image does not decode, or is not the one that was annotated.
    """
    try:
        pixels = decode_image(data, max_pixels)
    except DecodeError as error:
        raise ShardError(f"{image.shard}: {image.key!r}: {error}") from error
    height, width = pixels.shape[:2]
    if (height, width) != (image.height, image.width):
        raise ShardError(
            f"{image.shard}: {image.key!r} has {height} x {width} pixels and had {image.height} x "
            f"{image.width} when it was annotated; run cambox annotate again"
        )
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(image.boxes.corners.astype(np.float32)),
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=(height, width),
    )
    target: Target = {
        "boxes": boxes,
        "labels": torch.from_numpy(image.boxes.class_id + 1),
        "scores": torch.from_numpy(image.boxes.score.astype(np.float32)),
        "image_id": image.image_id,
        "key": image.key,
    }
    picture = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
    return (picture, target) if transforms is None else transforms(picture, target)


def collate(samples: Sequence[DetectionSample]) -> tuple[list[torch.Tensor], list[Target]]:
    """For ``DataLoader(collate_fn=...)``: images differ in size, so a batch is a list of them."""
    return [image for image, _ in samples], [target for _, target in samples]


def of_each_box(inputs: tuple[Any, Target]) -> tuple[torch.Tensor, torch.Tensor]:
    """For ``SanitizeBoundingBoxes(labels_getter=...)``: else the scores of dropped boxes stay."""
    return inputs[1]["labels"], inputs[1]["scores"]
