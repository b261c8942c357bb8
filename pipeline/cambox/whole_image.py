"""One look at each image, squashed to the network's input: a map of each class, its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from cambox.cams.boxes import FoundBoxes, find_boxes, upsampled_size
from cambox.cams.score import choose_boxes
from cambox.config import Config
from cambox.image_classes import ScoredImage, map_classes, scored_images
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.models.groups import class_probabilities
from cambox.output.rows import StoredMap
from cambox.sources.load import LoadedSample


@dataclass(frozen=True)
class MappedImage(ScoredImage):
    """An image with its maps.

    Attributes:
        maps: (n, h, w) float32 on the CPU, of the wanted classes.
    """

    maps: torch.Tensor

    def stored_maps(self) -> tuple[StoredMap, ...]:
        """All of them."""
        return tuple(
            StoredMap.of(choice.class_id, choice.rank, score_map.numpy())
            for choice, score_map in zip(self.wanted, self.maps, strict=True)
        )


class WholeImages:
    """Scores and boxes of images of the classifier's input size."""

    def __init__(self, config: Config, classifier: Classifier) -> None:
        self.cam = config.cam
        self.activation = config.model.activation
        self.classifier = classifier
        self.map_maker = MapMaker(config.cam, classifier)
        preprocessing = classifier.preprocessing
        self.box_settings = config.boxes
        self.map_size = upsampled_size(config.boxes, (preprocessing.height, preprocessing.width))
        self._buffer = classifier.image_buffer(0)

    @torch.inference_mode()
    def score(self, samples: Sequence[LoadedSample]) -> list[MappedImage]:
        """One forward pass, and the maps of the classes that each image wants."""
        # The same memory each time: a large batch would else come from fresh pages, which the
        # kernel clears.
        if len(self._buffer) < len(samples):
            self._buffer = self.classifier.image_buffer(len(samples))
        images = self._buffer[: len(samples)]
        np.stack([sample.pixels for sample in samples], out=images)  # type: ignore[misc]
        scores = self.classifier.scores(images)
        logits = self.map_maker.logits(scores)
        probabilities = class_probabilities(logits, self.activation, self.classifier.groups)
        chosen = scored_images(probabilities.cpu(), [sample.labels for sample in samples], self.cam)
        # Images want different numbers of classes; the shorter lists are padded with class 0.
        ids_of = [torch.tensor([one.class_id for one in image.wanted]).long() for image in chosen]
        class_ids = pad_sequence(ids_of, batch_first=True).to(probabilities.device)
        maps = self.map_maker.maps(scores, class_ids).cpu()
        return [
            MappedImage(**vars(image), maps=maps[number, : len(image.wanted)])
            for number, image in enumerate(chosen)
        ]

    def boxes(self, images: Sequence[MappedImage]) -> FoundBoxes:
        """The boxes of some images, ``image`` being their place among them."""
        maps = torch.cat([image.maps for image in images])
        found = find_boxes(maps, self.map_size, self.box_settings)
        return choose_boxes(found, map_classes(images), self.box_settings)
