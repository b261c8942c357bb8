"""The maps of a trained network, made in several ways, on the demo's pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from cambox.cams.refine import affinity, propagate
from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.demo.scenes import make_scene
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.models.heads import HeadKind, TailHead, possible_grids
from cambox.models.load import load_classifier
from research.candidates import Candidate
from research.training import MEAN, SIDE, STD

# Scenes that neither training nor the classification score has seen.
FIRST_SEED = 0
BATCH_SIZE = 40

HeadRule = Literal["auto", "frozen", "derivative"]


@dataclass(frozen=True)
class Pair:
    """A picture and a class that it shows, with the class's true boxes, (n, 4), as shares."""

    image: int
    class_id: int
    corners: NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Pictures (N, S, S, 3) uint8, and each with each class it shows."""

    images: NDArray[np.uint8]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Variant:
    """One way to make maps of a network.

    Attributes:
        rectified: cells that speak against the class count as zero before the min-max.
        steps: of refinement along the affinity.
    """

    title: str
    truncate: bool = False
    rule: HeadRule = "auto"
    rectified: bool = False
    steps: int = 0


VARIANTS = (
    Variant("plain"),
    Variant("truncate", truncate=True),
    Variant("rectified", rectified=True),
    Variant("derivative", rule="derivative"),
    Variant("refined, 1 step", steps=1),
    Variant("refined, 2 steps", steps=2),
    Variant("truncate, 2 steps", truncate=True, steps=2),
    Variant("rectified, 2 steps", rectified=True, steps=2),
)


def held_out_scenes(count: int, progress: Progress) -> HeldOut:
    """The demo's own pictures, squashed to the input, with their true boxes as shares."""
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    pairs: list[Pair] = []
    for index in progress.track(range(count), description="Scenes to compare on"):
        image, objects = make_scene(FIRST_SEED + index)
        height, width = image.shape[:2]
        images[index] = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        size = [width, height, width, height]
        for class_id in np.unique(objects.class_id).tolist():
            corners = objects.corners[objects.class_id == class_id]
            pairs.append(Pair(index, class_id, corners / size))
    return HeldOut(images, tuple(pairs))


def classifier_from(candidate: Candidate, module: torch.nn.Module, rule: HeadRule) -> Classifier:
    """The trained network as the pipeline takes it."""
    settings = ModelSettings(
        name=candidate.model,
        kwargs=candidate.kwargs,
        input_size=SIDE,
        mean=MEAN,
        std=STD,
        activation="sigmoid",
    )
    module = module.eval().requires_grad_(False)
    return load_classifier(settings, nonlinear_head=rule, module=module)


def means_something(variant: Variant, classifier: Classifier) -> bool:
    """Whether the classifier's kind of head has what the variant changes."""
    if variant.truncate and isinstance(classifier.head, TailHead):
        return False
    return variant.rule != "derivative" or classifier.head.kind is HeadKind.derivative


@contextmanager
def recorded(module: torch.nn.Module, names: tuple[str, ...]) -> Iterator[list[torch.Tensor]]:
    """The outputs of some modules as feature maps (B, C, H, W), filled by a forward pass."""
    outputs: list[torch.Tensor] = []

    def record(_: torch.nn.Module, args: object, output: torch.Tensor) -> None:
        grids = possible_grids(tuple(output.shape), (SIDE, SIDE))
        # The pictures are squares, so a grid that is not is none.
        grid = next(grid for grid in grids if grid.height == grid.width)
        outputs.append(grid.feature_map(output.detach()).float())

    handles = [module.get_submodule(name).register_forward_hook(record) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def maps_of(
    candidate: Candidate, classifier: Classifier, variant: Variant, images: NDArray[np.uint8]
) -> torch.Tensor:
    """Maps (N, K, h, w) of all classes of pictures (N, S, S, 3) uint8."""
    maker = MapMaker(CamSettings(truncate=variant.truncate), classifier)
    batches = []
    for batch in np.array_split(images, -(-len(images) // BATCH_SIZE)):
        with recorded(classifier.module, candidate.middle) as middle:
            scores = classifier.scores(batch)
        class_ids = torch.arange(classifier.class_count).expand(len(batch), -1)
        maps = maker.maps(scores, class_ids)
        if variant.rectified:
            maps = maps.relu()
        if variant.steps:
            size = (maps.shape[2], maps.shape[3])
            maps = propagate(maps, affinity(middle, size), variant.steps)
        batches.append(maps)
    return torch.cat(batches)


def of_pairs(maps: torch.Tensor, held_out: HeldOut) -> NDArray[np.float32]:
    """(P, h, w) the map of each pair, of all maps (N, K, h, w)."""
    return np.stack([maps[pair.image, pair.class_id].numpy() for pair in held_out.pairs])
