"""One batch: forward pass, classes, maps of those classes, boxes, rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from cambox.boxes import Boxes
from cambox.cams.boxes import FoundBoxes, find_boxes, upsampled_size
from cambox.cams.score import MapClasses, choose_boxes
from cambox.cams.score_maps import WantedClass, wanted_classes
from cambox.config import Config
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.models.groups import class_probabilities
from cambox.output.rows import ClassScore, Row, StoredMap
from cambox.sources.load import LoadedSample
from cambox.threads import Stopwatch, grouped

NO_LIMIT = 2**31


@dataclass
class AnnotatedBatch:
    """What became of the samples of a batch, or of several in a row.

    Attributes:
        rows: in the samples' order.
        boxes: in pixels of the upright images, ``image`` being the place of their row; in parts,
            so that a shard's are joined once.
        no_box: maps that gave no box, by reason.
        halved_to: images per forward pass after memory ran out; None if it did not.
    """

    rows: list[Row] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)
    no_box: Counter[str] = field(default_factory=Counter)
    halved_to: int | None = None

    def add(self, following: AnnotatedBatch) -> None:
        """Append the batch that follows."""
        before = len(self.rows)
        self.rows += following.rows
        self.boxes += [part.with_columns(image=part.image + before) for part in following.boxes]
        self.no_box.update(following.no_box)
        self.halved_to = min(
            (size for size in (self.halved_to, following.halved_to) if size is not None),
            default=None,
        )


@dataclass(frozen=True)
class ImageScores:
    """What the network says of one image, in the order of the wanted classes.

    Attributes:
        classes: the model's top-k.
        wanted: the classes that get a map.
        class_scores: their probabilities.
        maps: (n, h, w) float32 on the CPU.
    """

    classes: tuple[ClassScore, ...]
    wanted: list[WantedClass]
    class_scores: list[float]
    maps: torch.Tensor


class BatchAnnotator:
    """Turns loaded samples into rows and boxes.

    Args:
        pool: threads for the boxes; None: they are found in the caller's.
        together: images whose boxes one of those threads finds at once.

    Attributes:
        forward_size: the most images of one forward pass; lowered when memory runs out.
    """

    def __init__(
        self, config: Config, classifier: Classifier, pool: Executor | None, together: int
    ) -> None:
        self.cam = config.cam
        self.activation = config.model.activation
        self.store_maps = config.output.store_maps
        self.classifier = classifier
        self.pool = pool
        self.together = together
        self.map_maker = MapMaker(config.cam, classifier)
        preprocessing = classifier.preprocessing
        self.box_settings = config.boxes
        self.map_size = upsampled_size(config.boxes, (preprocessing.height, preprocessing.width))
        self.forward_size = NO_LIMIT
        self._buffer = classifier.image_buffer(0)

    def annotate(
        self, shard_uri: str, batch: Sequence[LoadedSample], watch: Stopwatch
    ) -> AnnotatedBatch:
        """Annotate the samples of one batch.

        A batch that does not fit into the GPU's memory is halved until it does, and so are the
        later ones; the rows are the same.

        Raises:
            torch.OutOfMemoryError: not even a single image fits.
        """

        def boxes_of(images: list[ImageScores]) -> FoundBoxes:
            with watch.measure("boxes"):
                return self._boxes(images)

        places = [place for place, sample in enumerate(batch) if sample.pixels is not None]
        before = self.forward_size
        with watch.measure("forward"):
            scored = self._score_what_fits([batch[place] for place in places])
        annotated = AnnotatedBatch(
            halved_to=self.forward_size if self.forward_size < before else None
        )
        each = map if self.pool is None else self.pool.map
        first = 0
        for found in each(boxes_of, grouped(scored, self.together)):
            mine = np.array(places[first : first + self.together])
            first += self.together
            annotated.no_box.update(str(reason) for reason in found.reasons if reason is not None)
            if len(found.boxes):
                annotated.boxes.append(_in_pixels(found.boxes, mine, batch))
        images = iter(scored)
        for sample in batch:
            image = None if sample.pixels is None else next(images)
            annotated.rows.append(self._row(shard_uri, sample, image))
        return annotated

    def _boxes(self, images: Sequence[ImageScores]) -> FoundBoxes:
        """The boxes of some images, ``image`` being their place among them."""
        wanted = [choice for image in images for choice in image.wanted]
        classes = MapClasses(
            image=np.repeat(np.arange(len(images)), [len(image.wanted) for image in images]),
            class_id=np.array([choice.class_id for choice in wanted], np.int64),
            rank=np.array([choice.rank for choice in wanted], np.int64),
            score=np.array([score for image in images for score in image.class_scores]),
        )
        maps = torch.cat([image.maps for image in images])
        found = find_boxes(maps, self.map_size, self.box_settings)
        return choose_boxes(found, classes, self.box_settings)

    def _score_what_fits(self, samples: Sequence[LoadedSample]) -> list[ImageScores]:
        scored: list[ImageScores] = []
        while len(scored) < len(samples):
            part = samples[len(scored) : len(scored) + self.forward_size]
            try:
                scored += self._score(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.forward_size = len(part) // 2
                torch.cuda.empty_cache()
        return scored

    @torch.inference_mode()
    def _score(self, samples: Sequence[LoadedSample]) -> list[ImageScores]:
        # The same memory each time: a large batch would else come from fresh pages, which the
        # kernel clears.
        if len(self._buffer) < len(samples):
            self._buffer = self.classifier.image_buffer(len(samples))
        images = self._buffer[: len(samples)]
        np.stack([sample.pixels for sample in samples], out=images)  # type: ignore[misc]
        scores = self.classifier.scores(images)
        logits = self.map_maker.logits(scores)
        probabilities = class_probabilities(logits, self.activation, self.classifier.groups)
        best = probabilities.topk(self.cam.top_k, dim=1)
        top_ids, top_probabilities = best.indices.tolist(), best.values.tolist()
        wanted = [
            wanted_classes(
                ids,
                shares,
                sample.labels or (),
                self.cam.classes,
                self.cam.ranks,
                self.cam.min_probability,
            )
            for sample, ids, shares in zip(samples, top_ids, top_probabilities, strict=True)
        ]
        # Images want different numbers of classes; the shorter lists are padded with class 0.
        ids_of = [torch.tensor([one.class_id for one in choices]).long() for choices in wanted]
        class_ids = pad_sequence(ids_of, batch_first=True).to(probabilities.device)
        maps = self.map_maker.maps(scores, class_ids).cpu()
        class_scores = probabilities.gather(1, class_ids).tolist()
        return [
            ImageScores(
                classes=tuple(
                    ClassScore(class_id, rank, share)
                    for rank, (class_id, share) in enumerate(zip(ids, shares, strict=True), 1)
                ),
                wanted=choices,
                class_scores=class_scores[image][: len(choices)],
                maps=maps[image, : len(choices)],
            )
            for image, (ids, shares, choices) in enumerate(
                zip(top_ids, top_probabilities, wanted, strict=True)
            )
        ]

    def _row(self, shard_uri: str, sample: LoadedSample, image: ImageScores | None) -> Row:
        maps: tuple[StoredMap, ...] = ()
        if image is not None and self.store_maps:
            maps = tuple(
                StoredMap.of(choice.class_id, choice.rank, score_map.numpy())
                for choice, score_map in zip(image.wanted, image.maps, strict=True)
            )
        return Row(
            key=sample.key,
            shard=shard_uri,
            sample_index=sample.index,
            status=str(sample.status),
            error=sample.error,
            width=sample.width,
            height=sample.height,
            labels=sample.labels,
            classes=() if image is None else image.classes,
            maps=maps,
        )


def _in_pixels(boxes: Boxes, places: np.ndarray, batch: Sequence[LoadedSample]) -> Boxes:
    """Boxes of the images at these places of a batch, from shares to pixels."""
    sizes = np.array([(batch[place].width, batch[place].height) for place in places.tolist()])
    width, height = sizes[boxes.image].T
    return boxes.scaled(width, height).with_columns(image=places[boxes.image])
