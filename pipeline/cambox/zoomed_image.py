"""Several looks at each image, which keeps its shape: the boxes that they agree on.

For photographs with several and small objects; docs/scenes.md has the method and what it gives.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cambox.batch import ScoredImage, map_classes, scored_images
from cambox.boxes import Boxes, at_edge
from cambox.cams.agreement import choose, evidence, probability, traits
from cambox.cams.boxes import FoundBoxes, NoBoxReason
from cambox.cams.looks import Windows, candidates
from cambox.cams.pyramid import Level, window_chances
from cambox.cams.score import choose_boxes
from cambox.cams.sums import Members
from cambox.config import Config
from cambox.config_cam import ZoomSettings
from cambox.errors import RequestError
from cambox.models.aspect import takes_any_shape
from cambox.models.classifier import Classifier
from cambox.sources.load import LoadedSample, fitted, resize

# Below it a probability is none: of no use, and its log would be infinite.
LEAST_PROBABILITY = 1e-30


@dataclass(frozen=True)
class Pass:
    """What goes through the network at once.

    Attributes:
        side: of the input, the longer one, in pixels.
        places: of the images, among those that are asked for together.
        images: (B, H, W, 3) uint8.
    """

    side: int
    mirrored: bool
    places: list[int]
    images: np.ndarray


@dataclass(frozen=True)
class ZoomedImage(ScoredImage):
    """An image with what the network says of it at several sizes.

    Attributes:
        size: height and width of the original, in pixels.
        levels: one for each pass.
        windows: of the levels that are not mirrored, for the wanted classes.
    """

    size: tuple[int, int]
    levels: tuple[Level, ...]
    windows: tuple[Windows, ...]


class ZoomedImages:
    """Scores and boxes of images that keep their shape.

    A class's probability in an image is the highest that any window of it gives.
    """

    def __init__(
        self, config: Config, zoom: ZoomSettings, classifier: Classifier, background: int | None
    ) -> None:
        self.cam = config.cam
        self.background = background
        self.zoom = zoom
        self.independent = config.model.activation == "sigmoid"
        self.classifier = classifier
        self.box_settings = config.boxes
        groups = classifier.groups
        self.members: Sequence[Sequence[int]] = (
            [(index,) for index in range(classifier.class_count)]
            if groups is None
            else groups.members
        )
        # Largest first: what does not fit into memory says so before the rest is done.
        passes = [(side, False) for side in zoom.sides] + [(side, True) for side in zoom.mirrored]
        self.passes = sorted(set(passes), key=lambda entry: (-entry[0], entry[1]))

    @torch.inference_mode()
    def score(self, samples: Sequence[LoadedSample]) -> list[ZoomedImage]:
        """What the network says of each image at all sizes."""
        levels: list[list[Level]] = [[] for _ in samples]
        for one in self.inputs(samples):
            for place, level in zip(one.places, self._levels(one), strict=True):
                levels[place].append(level)
        seen = [self._chances(some) for some in levels]
        best = torch.from_numpy(
            np.stack([np.max([one.max(axis=0) for _, one in some], axis=0) for some in seen])
        )
        labels = [sample.labels for sample in samples]
        chosen = scored_images(best, labels, self.cam, self.background)
        images_of = []
        for number, (image, sample) in enumerate(zip(chosen, samples, strict=True)):
            wanted = [choice.class_id for choice in image.wanted]
            images_of.append(
                ZoomedImage(
                    **vars(image),
                    size=_size(sample),
                    levels=tuple(levels[number]),
                    windows=tuple(
                        Windows(cells, _log(chances[:, wanted])) for cells, chances in seen[number]
                    ),
                )
            )
        return images_of

    def inputs(self, samples: Sequence[LoadedSample]) -> Iterator[Pass]:
        """The passes of each size, images of one shape together."""
        for side, ways in itertools.groupby(self.passes, key=lambda entry: entry[0]):
            mirrored = [way for _, way in ways]
            together: dict[tuple[int, int], list[int]] = defaultdict(list)
            for place, sample in enumerate(samples):
                together[fitted(_size(sample), side, self.classifier.cell)].append(place)
            for size, places in together.items():
                images = np.empty((len(places), *size, 3), np.uint8)
                for image, place in zip(images, places, strict=True):
                    resize(_pixels(samples[place]), *size, into=image)
                for way in mirrored:
                    seen = np.ascontiguousarray(images[:, :, ::-1]) if way else images
                    yield Pass(side, way, places, seen)

    def _levels(self, one: Pass) -> list[Level]:
        height, width = one.images.shape[1:3]
        scores = self.classifier.at(height, width).scores(one.images)
        logits = self.classifier.cell_logits(scores.feature_map).cpu()
        middle = [layer.cpu() for layer in scores.middle]
        if one.mirrored:
            logits, middle = logits.flip(2), [layer.flip(3) for layer in middle]
        return [
            Level(
                one.side,
                logits[number],
                tuple(layer[number : number + 1] for layer in middle),
                one.mirrored,
                self.independent,
            )
            for number in range(len(one.places))
        ]

    def _chances(self, levels: Sequence[Level]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each level that is not mirrored, its windows and the classes' chances (n, G) there."""
        groups = self.classifier.groups
        members = None if groups is None else Members.of(groups.members)
        return [window_chances(level, members) for level in levels if not level.mirrored]

    def candidates(self, image: ZoomedImage) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each wanted class the candidates' corners (n, 4) and traits (n, traits); n from 0."""
        groups = [self.members[choice.class_id] for choice in image.wanted]
        upright = [level for level in image.levels if not level.mirrored]
        looks = candidates(image.levels, image.windows, groups, self.zoom.windows)
        for place, found in enumerate(looks):
            seen = evidence(upright, groups, place, found.corners, image.size)
            yield found.corners, traits(found, seen)

    @torch.inference_mode()
    def boxes(self, images: Sequence[ZoomedImage]) -> FoundBoxes:
        """The boxes of some images, ``image`` being their place among them."""
        most = self.box_settings.max_boxes
        parts = []
        for image in images:
            for place, (corners, of_each) in enumerate(self.candidates(image)):
                score = probability(self.zoom.agreement, of_each)
                # Agreement says how likely a box is right where the class is there.
                if image.wanted[place].rank:
                    score = score * image.class_scores[place]
                parts.append(_boxes(*choose(corners, score, most)))
        of_map = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        reasons = tuple(None if len(part) else NoBoxReason.constant_map for part in parts)
        found_boxes = FoundBoxes(Boxes.joined(parts), of_map, reasons)
        large = found_boxes.boxes.area >= self.box_settings.min_area
        kept = found_boxes.only(large, NoBoxReason.too_small)
        return choose_boxes(kept, map_classes(images), self.box_settings)


def _log(chances: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(chances, LEAST_PROBABILITY, dtype=np.float64)))


def _size(sample: LoadedSample) -> tuple[int, int]:
    """Height and width of the original image."""
    assert sample.height is not None
    assert sample.width is not None
    return sample.height, sample.width


def _pixels(sample: LoadedSample) -> np.ndarray:
    assert sample.pixels is not None
    return sample.pixels


def _boxes(corners: np.ndarray, scores: np.ndarray) -> Boxes:
    return Boxes.of(
        np.clip(corners, 0, 1),
        component=np.arange(len(corners)),
        score=scores,
        touches_edge=at_edge(corners),
    )


def require_zoomable(classifier: Classifier, name: str) -> None:
    """Refuse a network that does not take images of any shape.

    Raises:
        RequestError: names the remedy.
    """
    head = classifier.head
    if not takes_any_shape(classifier):
        raise RequestError(
            f"cam.zoom: {name} has a head of kind {head.kind} over features as "
            f"{head.grid.layout}, and looks of any shape need a convolutional network that "
            "averages its cells; take one, such as mobilenetv2_100, or set cam.zoom to null"
        )
