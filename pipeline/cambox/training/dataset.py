"""The boxes of an output and the images of its shards as a torch dataset, in any order.

For up to some million images: it reads every footer and every tar header once, and keeps some
hundred bytes an image. Beyond that, or where shards are far away, see ``stream.BoxStream``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from cambox.boxes import Boxes
from cambox.sources.retry import from_storage
from cambox.sources.shards import Shard
from cambox.sources.storage import locate
from cambox.training.labelled import LabelledImage, LabelledImages, TrainingSet
from cambox.training.sample import DetectionSample, Transforms, detection_sample
from cambox.training.selection import ClassList, Selection
from cambox.training.shards import Extent, changed, files_of_images, index_images, shards_now

_SHARDS_AT_ONCE = 8


class BoxDataset(Dataset[DetectionSample]):
    """Images and targets, each read from its place in its tar shard when it is asked for.

    Args:
        output: a recipe's folder, or an output with one or a ``latest``; a path or URL.
        selection: which images and boxes; None: every box of every image that has one.
        transforms: any of ``torchvision.transforms.v2``, called with an image and a target.
        shards_at: the folder or URL that holds the shards now, if they were moved or copied.
        storage_options: of the output, passed to fsspec.
        shard_options: of the shards.

    Attributes:
        classes: the classes; label i + 1 is the i-th.
        left_out: how many images were not taken, by status, and for want of a box.

    Raises:
        RequestError: nothing is published there, or a shard is gone or not the one annotated.
        ShardError: a shard is compressed or does not hold the samples of its rows.
        OSError: the storage failed.
    """

    def __init__(
        self,
        output: str,
        selection: Selection | None = None,
        transforms: Transforms | None = None,
        *,
        shards_at: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        shard_options: Mapping[str, Any] | None = None,
    ) -> None:
        training_set = TrainingSet.open(output, selection or Selection(), storage_options)
        self.classes: ClassList = training_set.classes
        self.transforms = transforms
        self.max_pixels = training_set.max_pixels
        self.shard_options = shard_options
        shards = shards_now(training_set.recipe.files, shards_at, shard_options)

        def parts_of(index: int) -> list[_Part]:
            return list(_parts(training_set, index, shards[index], shard_options))

        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            self.parts = [
                part for parts in pool.map(parts_of, range(len(shards))) for part in parts
            ]
        self.ends = np.cumsum([len(part.images) for part in self.parts])
        self.left_out: Counter[str] = sum((part.images.left_out for part in self.parts), Counter())

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.parts else 0

    def image_keys(self) -> Iterator[str]:
        """Of all images, in their order."""
        for part in self.parts:
            yield from part.images.keys.to_pylist()

    def boxes(self) -> Boxes:
        """Of all images, side by side; ``image`` is not the place in the dataset."""
        return Boxes.joined(part.images.boxes for part in self.parts)

    def labelled(self, index: int) -> LabelledImage:
        """What is known of an image without reading it.

        Raises:
            IndexError: there is no such image.
        """
        part, place = self._find(index)
        return part.images[place]

    def __getitem__(self, index: int) -> DetectionSample:
        """One image and its target.

        Raises:
            IndexError: there is no such image.
            ShardError: the image is not the one that was annotated.
            OSError: the storage failed.
        """
        part, place = self._find(index)
        uri, start, end = part.place(place)
        # Found anew for each image: a connection must not cross a fork into a worker.
        filesystem, path = locate(uri, self.shard_options)
        data = from_storage(uri, lambda: filesystem.cat_file(path, start=start, end=end))
        return detection_sample(part.images[place], data, self.max_pixels, self.transforms)

    def _find(self, index: int) -> tuple[_Part, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        number = int(np.searchsorted(self.ends, index, side="right"))
        part = self.parts[number]
        return part, index - (int(self.ends[number]) - len(part.images))


@dataclass(frozen=True)
class _Part:
    """Images of one shard, and where in it they are.

    Attributes:
        shard: where it is now.
        extents: (m, 2) int64, first byte and how many bytes; none of a chunk.
        uris: (m,) of the files of a chunk; None for a tar.
    """

    shard: str
    images: LabelledImages
    extents: np.ndarray
    uris: pa.Array | None = None

    def place(self, at: int) -> tuple[str, int | None, int | None]:
        """The URI that holds an image, and from which byte to which; None: all of them."""
        if self.uris is not None:
            return self.uris[at].as_py(), None, None
        start, size = map(int, self.extents[at])
        return self.shard, start, start + size


def _parts(
    training_set: TrainingSet, index: int, shard: Shard, shard_options: Mapping[str, Any] | None
) -> Iterator[_Part]:
    rule = training_set.recipe.image_rule
    places: Mapping[str, Extent | str | None] = (
        files_of_images(shard, rule)
        if shard.files
        else index_images(shard.uri, shard_options, rule)
    )
    rows = training_set.recipe.files[index].rows
    if len(places) != rows:
        raise changed(shard.uri, f"it has {len(places)} samples and had {rows}")
    for images in training_set.read(index):
        found = []
        for key in images.keys.to_pylist():
            if (place := places.get(key)) is None:
                raise changed(shard.uri, f"the sample {key!r} has no image any more")
            found.append(place)
        if shard.files:
            yield _Part(shard.uri, images, np.zeros((0, 2), np.int64), pa.array(found))
        else:
            yield _Part(shard.uri, images, np.array(found, np.int64).reshape(-1, 2))
