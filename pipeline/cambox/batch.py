"""One batch: forward pass, classes, maps of those classes, boxes, rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from cambox.boxes import Boxes
from cambox.cams.boxes import FoundBoxes
from cambox.cams.score import MapClasses
from cambox.cams.score_maps import WantedClass, wanted_classes
from cambox.config_cam import CamSettings
from cambox.models.classifier import Classifier
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

    def stored_features(self) -> dict[str, np.ndarray]:
        """The vectors that can be kept in the row, by the row's names."""
        return {}


class Looks(Protocol):
    """A way to look at images: what the network says of them, and the boxes that follow."""

    def score(self, samples: Sequence[LoadedSample]) -> Sequence[ScoredImage]:
        """Run the network over images that were loaded for this way."""

    def boxes(self, images: Sequence[Any]) -> FoundBoxes:
        """The boxes of images that it scored, ``image`` being their place among them."""


class BatchAnnotator:
    """Turns loaded samples into rows and boxes.

    Args:
        looks: at the images, with the classifier.
        pool: threads for the boxes; None: they are found in the caller's.
        together: images whose boxes one of those threads finds at once.

    Attributes:
        forward_size: the most images of one forward pass; lowered when memory runs out.
    """

    def __init__(
        self,
        looks: Looks,
        classifier: Classifier,
        store_maps: bool,
        pool: Executor | None,
        together: int,
    ) -> None:
        self.looks = looks
        self.classifier = classifier
        self.store_maps = store_maps
        self.pool = pool
        self.together = together
        self.forward_size = NO_LIMIT

    def annotate(
        self, shard_uri: str, batch: Sequence[LoadedSample], watch: Stopwatch
    ) -> AnnotatedBatch:
        """Annotate the samples of one batch.

        A batch that does not fit into the GPU's memory is halved until it does, and so are the
        later ones; the rows are the same.

        Raises:
            torch.OutOfMemoryError: not even a single image fits.
        """

        def boxes_of(images: list[ScoredImage]) -> FoundBoxes:
            with watch.measure("boxes"):
                return self.looks.boxes(images)

        places = [place for place, sample in enumerate(batch) if sample.pixels is not None]
        before = self.forward_size
        with watch.measure("forward"), self.classifier.on_its_stream():
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

    def _score_what_fits(self, samples: Sequence[LoadedSample]) -> list[ScoredImage]:
        scored: list[ScoredImage] = []
        while len(scored) < len(samples):
            part = samples[len(scored) : len(scored) + self.forward_size]
            try:
                scored += self.looks.score(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.forward_size = len(part) // 2
                torch.cuda.empty_cache()
        return scored

    def _row(self, shard_uri: str, sample: LoadedSample, image: ScoredImage | None) -> Row:
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
            maps=image.stored_maps() if image is not None and self.store_maps else (),
            **({} if image is None else image.stored_features()),
        )


def _in_pixels(boxes: Boxes, places: np.ndarray, batch: Sequence[LoadedSample]) -> Boxes:
    """Boxes of the images at these places of a batch, from shares to pixels."""
    sizes = np.array([(batch[place].width, batch[place].height) for place in places.tolist()])
    width, height = sizes[boxes.image].T
    return boxes.scaled(width, height).with_columns(image=places[boxes.image])


def scored_images(
    probabilities: torch.Tensor,
    labels: Sequence[tuple[int, ...] | None],
    settings: CamSettings,
    background: int | None,
) -> list[ScoredImage]:
    """Choose the classes of images.

    Args:
        probabilities: (B, K) of the user's classes, 0 to 1, on the CPU.
        labels: given with each image.
        background: see ``wanted_classes``.
    """
    best = probabilities.topk(settings.top_k, dim=1)
    # Of numpy, for each image: an operation of torch lets go of the interpreter's lock, and waits
    # for it where others want it.
    of_class = probabilities.numpy()
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
            background,
        )
        classes = tuple(
            ClassScore(class_id, rank, share)
            for rank, (class_id, share) in enumerate(zip(ids, shares, strict=True), 1)
        )
        of_wanted = of_class[number, [choice.class_id for choice in wanted]].tolist()
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
