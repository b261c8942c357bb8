"""The boxes of an output and the images of its shards as a stream, for any number of images."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from cambox.errors import RequestError
from cambox.sources.shards import Shard
from cambox.training.labelled import TrainingSet
from cambox.training.sample import DetectionSample, Transforms, detection_sample
from cambox.training.selection import ClassList, Selection
from cambox.training.shards import EncodedImage, encoded_images, shards_now


class BoxStream(IterableDataset[DetectionSample]):
    """Images and targets, shard after shard, as WebDataset reads them.

    Each shard goes to one worker of one rank. Ranks and workers get as many shards as each other,
    or one more, so the number of samples differs: where every rank has to make the same number of
    steps, cut the loop at a number that all reach. ``.tar.gz`` is read as well.

    Args:
        output, selection, transforms: as of ``dataset.BoxDataset``.
        shuffle: how many samples (encoded, of each worker) the next one is drawn from; the order
            of the shards is shuffled as well. 0: everything in order.
        seed: of the order; with the epoch, see ``set_epoch``, it settles it.
        rank, world_size: of this process; None: those of torch.distributed's environment, or one
            process.
        shards_at, storage_options, shard_options: as of ``dataset.BoxDataset``.

    Attributes:
        classes: the classes; label i + 1 is the i-th.

    Raises:
        RequestError: nothing is published there, a shard is gone or not the one annotated, or
            there are fewer shards than ranks.
        OSError: the storage failed.
    """

    def __init__(
        self,
        output: str,
        selection: Selection | None = None,
        transforms: Transforms | None = None,
        *,
        shuffle: int = 1000,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        shards_at: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        shard_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.training_set = TrainingSet.open(output, selection or Selection(), storage_options)
        self.classes: ClassList = self.training_set.classes
        self.transforms = transforms
        self.shuffle = shuffle
        self.seed = seed
        self.rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        self.world_size = int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise RequestError(f"rank: {self.rank} is not within 0 and {self.world_size - 1}")
        files = self.training_set.recipe.files
        if len(files) < self.world_size:
            raise RequestError(
                f"world_size: {self.world_size} ranks cannot share {len(files)} shards; pack "
                "smaller ones"
            )
        self.shard_options = shard_options
        self.shards: list[Shard] = shards_now(files, shards_at, shard_options)
        # Shared memory: workers that live through several epochs have a copy of all else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Settle the order of the next pass; call it before each, with the same on every rank."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[DetectionSample]:
        """The samples of this rank's and this worker's shards.

        Raises:
            ShardError: a shard is damaged, or does not hold the samples of its rows.
            OSError: the storage failed.
        """
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        order = list(enumerate(self.shards))
        epoch = int(self._epoch)
        if self.shuffle:
            random.Random(f"{self.seed} {epoch}").shuffle(order)
        own = order[self.rank :: self.world_size][number::workers]
        samples: Iterable[EncodedImage] = (
            sample
            for index, shard in own
            for sample in encoded_images(self.training_set, index, shard, self.shard_options)
        )
        if self.shuffle:
            generator = random.Random(f"{self.seed} {epoch} {self.rank} {number}")
            samples = _shuffled(samples, self.shuffle, generator)
        for image, _, data in samples:
            yield detection_sample(image, data, self.training_set.max_pixels, self.transforms)


def _shuffled(
    samples: Iterable[EncodedImage], size: int, generator: random.Random
) -> Iterator[EncodedImage]:
    """Each sample once, drawn from the next ``size`` of them."""
    waiting: list[EncodedImage] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) >= size:
            place = generator.randrange(len(waiting))
            waiting[place], waiting[-1] = waiting[-1], waiting[place]
            yield waiting.pop()
    generator.shuffle(waiting)
    yield from waiting
