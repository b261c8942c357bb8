"""``cambox detect apply``: a detector's boxes of an output's images, as another recipe."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from cambox.boxes import Boxes
from cambox.console import Advance
from cambox.detect.detector import Description, load_detector
from cambox.detect.judge import detect
from cambox.detect.pictures import resized
from cambox.detect.rows import Detected, Rule, detected_rows
from cambox.engines.worker import local_device
from cambox.errors import RequestError
from cambox.models.load import weights_digest
from cambox.output.derived import Derived, Parents, derive, whole_rows
from cambox.output.footer import Recipe
from cambox.output.reading import PublishedRecipe
from cambox.sources.decode import SampleStatus
from cambox.sources.shards import Shard
from cambox.threads import grouped, in_order, usable_cpus
from cambox.training.labelled import TrainingSet
from cambox.training.sample import DetectionSample, detection_sample
from cambox.training.selection import Selection
from cambox.training.shards import EncodedImage, encoded_images, shards_now


@dataclass(frozen=True)
class ApplyRequest:
    """Which detector looks at which images.

    Attributes:
        detector: the folder that training wrote.
        output: a recipe's folder, or an output with one or a ``latest``; a path or URL.
        to: URI of the new output.
        batch_size: images at a time.
        shards_at: the folder or URL that holds the shards now, if they were moved or copied.
    """

    detector: Path
    output: str
    to: str
    rule: Rule = field(default_factory=Rule)
    batch_size: int = 8
    shards_at: str | None = None


def apply(request: ApplyRequest, on_file: Advance | None = None) -> Derived[Detected]:
    """Look at the images of every file that has no successor yet.

    Args:
        on_file: called after each file.

    Raises:
        RequestError: there is no such output or detector, they are of other classes, or a shard is
            gone or not the one that was annotated.
    """
    statuses = [SampleStatus.ok, *([SampleStatus.no_label] if request.rule.any_class else [])]
    selection = Selection(keep_empty=True, statuses=tuple(map(str, statuses)))
    training_set = TrainingSet.open(request.output, selection)
    detector, description = load_detector(request.detector, local_device())
    names = training_set.recipe.footer.classes
    for class_id, name in zip(description.class_ids, description.class_names, strict=True):
        known = class_id < len(names) and training_set.classes.names[class_id] == name
        if not known:
            raise RequestError(
                f"{request.detector}: its class {class_id} is {name!r}, and the recipe of "
                f"{request.output} has another one; apply it to an output of the same classes"
            )
    recipe = _recipe(training_set.recipe, detector, description, request.rule)
    files = training_set.recipe.files
    shards = shards_now(files, request.shards_at)
    looker = _Looker(request, training_set, shards, detector, description)
    sources = [(file,) for file in files]
    return derive(request.to, recipe, sources, looker.rows, Detected(), on_file=on_file)


def _recipe(
    source: PublishedRecipe, detector: nn.Module, description: Description, rule: Rule
) -> Recipe:
    """The source's recipe with a detector's boxes; ``detect`` says which."""
    settings = source.settings
    try:
        if settings["cam"]["classes"] != "label" or rule.any_class:
            settings["cam"] |= {"classes": "both", "ranks": None}
        # A calibration is one of the maps' scores.
        settings["boxes"]["calibration"] = None
        # Neither maps nor features are carried along.
        settings["output"] = {"store_maps": False}
    except (KeyError, TypeError) as error:
        raise source.other_make() from error
    settings.pop("rebox", None)
    settings["detect"] = {
        "weights": weights_digest(detector),
        "kind": str(description.kind),
        "side": description.side,
        **vars(rule),
        "instead_of": source.footer.recipe_digest,
    }
    return Recipe.of(settings, source.footer.classes)


class _Looker:
    """A detector and the images that it looks at, file by file."""

    def __init__(
        self,
        request: ApplyRequest,
        training_set: TrainingSet,
        shards: list[Shard],
        detector: nn.Module,
        description: Description,
    ) -> None:
        self.request, self.training_set, self.detector = request, training_set, detector
        self.files = {
            file.uri: (index, shard)
            for index, (file, shard) in enumerate(
                zip(training_set.recipe.files, shards, strict=True)
            )
        }
        self.class_ids = np.array((-1, *description.class_ids), np.int64)
        self.resized = resized(description.side)

    def rows(self, parents: Parents) -> tuple[pa.Table, Detected]:
        """The rows of a file, with the detector's boxes."""
        (file,) = parents
        table = whole_rows(file)
        looked_at = np.zeros(table.num_rows, bool)
        found = []
        for row, boxes in self.found(*self.files[file.uri]):
            looked_at[row] = True
            found.append(boxes.with_columns(image=np.full(len(boxes), row)))
        return detected_rows(
            table,
            Boxes.joined(found),
            looked_at,
            self.request.rule,
            self.training_set.recipe.footer.classes,
        )

    def found(self, index: int, shard: Shard) -> Iterator[tuple[int, Boxes]]:
        """Row, and boxes in pixels of the upright image, of each image of a file."""
        first = self.training_set.first_ids[index]
        device = next(self.detector.parameters()).device
        images = encoded_images(self.training_set, index, shard)
        with ThreadPoolExecutor(usable_cpus()) as pool:
            samples = in_order(pool, self.decoded, images, ahead=2 * self.request.batch_size)
            for group in grouped(samples, self.request.batch_size):
                pixels = [image.as_subclass(torch.Tensor) for (image, _), _ in group]
                pairs = zip(group, detect(self.detector, pixels, device), strict=True)
                for ((image, target), (width, height)), boxes in pairs:
                    scale_x, scale_y = width / image.shape[2], height / image.shape[1]
                    yield (
                        target["image_id"] - first,
                        boxes.scaled(scale_x, scale_y).with_columns(
                            class_id=self.class_ids[boxes.class_id]
                        ),
                    )

    def decoded(self, encoded: EncodedImage) -> tuple[DetectionSample, tuple[int, int]]:
        """An image as the detector sees it, and the width and height that it has."""
        image, _, data = encoded
        sample = detection_sample(image, data, self.training_set.max_pixels, self.resized)
        return sample, (image.width, image.height)
