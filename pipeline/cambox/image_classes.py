"""Which classes of an image get boxes, and what is known of each image before it has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cambox.cams.score import MapClasses
from cambox.cams.score_maps import WantedClass, wanted_classes
from cambox.config_cam import CamSettings
from cambox.output.rows import ClassScore, StoredMap


@dataclass(frozen=True)
class ScoredImage:
    """What the network says of one image.

    Attributes:
        classes: the model's top-k.
        wanted: the classes that get boxes.
        class_scores: their probabilities, in the same order.
    """

    classes: tuple[ClassScore, ...]
    wanted: list[WantedClass]
    class_scores: list[float]

    def stored_maps(self) -> tuple[StoredMap, ...]:
        """Those that can be kept in the row."""
        return ()


def scored_images(
    probabilities: torch.Tensor, labels: Sequence[tuple[int, ...] | None], settings: CamSettings
) -> list[ScoredImage]:
    """Choose the classes of images.

    Args:
        probabilities: (B, K) of the user's classes, 0 to 1.
        labels: given with each image.
    """
    best = probabilities.topk(settings.top_k, dim=1)
    images = []
    for number, (ids, shares) in enumerate(
        zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ):
        wanted = wanted_classes(
            ids,
            shares,
            labels[number] or (),
            settings.classes,
            settings.ranks,
            settings.min_probability,
        )
        classes = tuple(
            ClassScore(class_id, rank, share)
            for rank, (class_id, share) in enumerate(zip(ids, shares, strict=True), 1)
        )
        of_wanted = probabilities[number, [choice.class_id for choice in wanted]].tolist()
        images.append(ScoredImage(classes, wanted, of_wanted))
    return images


def map_classes(images: Sequence[ScoredImage]) -> MapClasses:
    """Whose maps those of all wanted classes of all images are; ``image`` counts from 0."""
    wanted = [choice for image in images for choice in image.wanted]
    return MapClasses(
        image=np.repeat(np.arange(len(images)), [len(image.wanted) for image in images]),
        class_id=np.array([choice.class_id for choice in wanted], np.int64),
        rank=np.array([choice.rank for choice in wanted], np.int64),
        score=np.array([score for image in images for score in image.class_scores]),
    )
