"""How well a detector finds the boxes of pictures that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cambox.boxes import Boxes
from cambox.detect.pictures import on_device
from cambox.review.evaluate.detection import AT_50, match
from cambox.review.rows_with_truth import numbered


@dataclass(frozen=True)
class Precision:
    """COCO's average precision, 0 to 1: the mean over the classes that have a box.

    Attributes:
        ap50: at IoU 0.5.
        ap: over IoU 0.5 to 0.95.
    """

    ap50: float
    ap: float


@torch.inference_mode()
def detect(
    detector: nn.Module, images: Sequence[torch.Tensor], device: torch.device
) -> Iterator[Boxes]:
    """What a detector finds in images (3, h, w) uint8: boxes in their pixels.

    ``class_id`` is the label, from 1.
    """
    batch, _ = on_device(images, (), device)
    for result in detector(batch):
        corners, labels, scores = (
            result[name].cpu().numpy() for name in ("boxes", "labels", "scores")
        )
        yield Boxes.of(corners, class_id=labels, score=scores)


def found_and_true(
    detector: nn.Module,
    batches: Iterable[tuple[list[torch.Tensor], list[dict[str, Any]]]],
    device: torch.device,
) -> tuple[list[Boxes], list[Boxes]]:
    """Of each picture the boxes that a detector finds, and those that it has."""
    detector.eval()
    found: list[Boxes] = []
    true: list[Boxes] = []
    for images, targets in batches:
        found += detect(detector, images, device)
        true += [
            Boxes.of(np.asarray(target["boxes"]), class_id=np.asarray(target["labels"]))
            for target in targets
        ]
    return found, true


def precision(found: Sequence[Boxes], true: Sequence[Boxes]) -> Precision | None:
    """Average precision of the boxes of pictures; None where no picture has a true one."""
    classes = match(numbered(found), numbered(true))
    each = [one.average_precision for one in classes if len(one.true_image)]
    if not each:
        return None
    mean = np.mean(each, axis=0)
    return Precision(float(mean[AT_50]), float(mean.mean()))
