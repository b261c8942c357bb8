"""One look at each whole image, squashed or in its shape: its classes, their maps and boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cambox.batch import ScoredImage, map_classes, scored_images
from cambox.cams.boxes import FoundBoxes, find_boxes_by_shape
from cambox.cams.geometry import MapGeometry
from cambox.cams.score import choose_boxes
from cambox.config import Config
from cambox.maps import MapMaker
from cambox.models.aspect import Frame
from cambox.models.classifier import Classifier, Scores
from cambox.models.groups import class_probabilities
from cambox.output.rows import StoredMap
from cambox.sources.load import LoadedSample

AVERAGE_TOLERANCE = 1e-3
SMALLEST_INSIDE = 2


@dataclass(frozen=True)
class MappedImage(ScoredImage):
    """An image with its maps.

    Attributes:
        maps: (n, h, w) float32 of the wanted classes.
        features: (D,) float16 each, as the row has them, where they are stored.
    """

    maps: np.ndarray
    features: dict[str, np.ndarray]

    def stored_maps(self) -> tuple[StoredMap, ...]:
        """All of them."""
        return tuple(
            StoredMap.of(choice.class_id, choice.rank, score_map)
            for choice, score_map in zip(self.wanted, self.maps, strict=True)
        )

    def stored_features(self) -> dict[str, np.ndarray]:
        """What the last layer sees, where it is stored."""
        return self.features


class WholeImages:
    """Scores and boxes of images of the classifier's input size, or of its longer side."""

    def __init__(self, config: Config, classifier: Classifier, background: int | None) -> None:
        self.cam = config.cam
        self.background = background
        self.activation = config.model.activation
        self.classifier = classifier
        self.map_maker = MapMaker(config.cam, classifier)
        size = classifier.preprocessing
        squashed = classifier.aspect == "squashed"
        self.geometry = MapGeometry(
            (size.height, size.width) if squashed else size.height, classifier.offset
        )
        self.padding = np.round(255 * np.array(size.mean)).astype(np.uint8)
        self.box_settings = config.boxes
        self._buffer = classifier.image_buffer(0)

    @torch.inference_mode()
    def score(self, samples: Sequence[LoadedSample]) -> list[MappedImage]:
        """One forward pass for each shape, and the maps of the classes that each image wants."""
        together: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, sample in enumerate(samples):
            assert sample.pixels is not None
            together[sample.pixels.shape].append(place)
        scored: dict[int, MappedImage] = {}
        for (height, width, _), places in together.items():
            same = self._score([samples[place] for place in places], height, width)
            scored.update(zip(places, same, strict=True))
        return [scored[place] for place in range(len(samples))]

    def _score(self, samples: Sequence[LoadedSample], height: int, width: int) -> list[MappedImage]:
        """Of images of one shape."""
        images, classifier = self._together(samples), self.classifier
        size = classifier.preprocessing
        frame = Frame.whole(height, width)
        if classifier.aspect == "kept":
            classifier = classifier.at(height, width)
        elif classifier.aspect == "padded":
            whole = size.height, size.width
            frame = Frame.in_the_middle(height, width, whole, classifier.cell)
            images = frame.pad(images, self.padding)
        scores = classifier.scores(images)
        logits = self.map_maker.logits(scores)
        probabilities = class_probabilities(logits, self.activation, self.classifier.groups)
        labels = [sample.labels for sample in samples]
        chosen = scored_images(probabilities.cpu(), labels, self.cam, self.background)
        class_ids = torch.from_numpy(_padded_ids(chosen)).to(probabilities.device)
        # Where no image wants any there is nothing to make, and torch resizes no empty tensors.
        maps: np.ndarray = (
            self.map_maker.maps(scores, class_ids, frame).cpu().numpy()
            if class_ids.shape[1]
            else np.empty((len(samples), 0, 1, 1), np.float32)
        )
        features = {
            name: vectors.half().cpu().numpy() for name, vectors in stored_vectors(scores).items()
        }
        return [
            MappedImage(
                **vars(image),
                maps=maps[number, : len(image.wanted)],
                features={name: vectors[number] for name, vectors in features.items()},
            )
            for number, image in enumerate(chosen)
        ]

    def _together(self, samples: Sequence[LoadedSample]) -> np.ndarray:
        """(B, height, width, 3) of images of one shape."""
        pixels = [sample.pixels for sample in samples]
        if self.classifier.aspect != "squashed":
            return np.stack(pixels)  # type: ignore[arg-type]
        # The same memory each time: a large batch would else come from fresh pages, which the
        # kernel clears.
        if len(self._buffer) < len(samples):
            self._buffer = self.classifier.image_buffer(len(samples))
        images = self._buffer[: len(samples)]
        np.stack(pixels, out=images)  # type: ignore[arg-type]
        return images

    def boxes(self, images: Sequence[MappedImage]) -> FoundBoxes:
        """The boxes of some images, ``image`` being their place among them."""
        maps = [one for image in images for one in image.maps]
        found = find_boxes_by_shape(maps, self.geometry, self.box_settings)
        return choose_boxes(found, map_classes(images), self.box_settings)


def _padded_ids(images: Sequence[ScoredImage]) -> np.ndarray:
    """(B, n) int64 of the classes that images want; shorter lists are padded with class 0."""
    ids = np.zeros((len(images), max(len(image.wanted) for image in images)), np.int64)
    for row, image in zip(ids, images, strict=True):
        row[: len(image.wanted)] = [choice.class_id for choice in image.wanted]
    return ids


def stored_vectors(scores: Scores) -> dict[str, torch.Tensor]:
    """What the last layer sees of images, (B, D) each, by the names of the row's columns."""
    if scores.last_input is None:
        return {}
    vectors = {"features": scores.last_input}
    cells = scores.feature_map
    height, width = cells.shape[2:]
    averages = cells.mean((2, 3))
    # Only where it sees the average of the cells can some of them stand for an image.
    if averages.shape == scores.last_input.shape and min(height, width) > SMALLEST_INSIDE:
        off = (averages - scores.last_input).abs().max()
        if off <= AVERAGE_TOLERANCE * scores.last_input.abs().max():
            inside = cells[:, :, 1:-1, 1:-1]
            at_border = cells.sum((2, 3)) - inside.sum((2, 3))
            border_cells = height * width - inside.shape[2] * inside.shape[3]
            vectors["border_features"] = at_border / border_cells
    return vectors
