"""Some samples of the shards, read as a worker reads them, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cambox.config import InputSettings
from cambox.console import one_line
from cambox.errors import RequestError, ShardError
from cambox.measure.clock import Tell
from cambox.sources.retry import as_request
from cambox.sources.samples import ImageRule, Sample, read_samples
from cambox.sources.shards import Shard

# Kept for the other parts; enough that no cache of a CPU holds them.
MOST_KEPT, MOST_BYTES = 2000, 256 << 20
# However slow the storage is; fewer tell nothing of a batch.
FEWEST = 16
MOST_SHARDS = 16


@dataclass(frozen=True)
class Reading:
    """What reading alone came to; ``samples`` are some of those that were read."""

    samples: list[Sample]
    count: int
    bytes_read: int
    seconds: float


def some_shards(shards: Sequence[Shard]) -> list[Shard]:
    """A few of the shards, from all over the list: neighbours are often alike."""
    count = min(MOST_SHARDS, len(shards))
    return [shards[number * len(shards) // count] for number in range(count)]


def read_some(
    shards: Sequence[Shard], settings: InputSettings, seconds: float, tell: Tell
) -> Reading:
    """Read one shard after the other for so many seconds, or until all are read once.

    Raises:
        RequestError: none of them holds a sample that can be read.
    """
    kept: list[Sample] = []
    count = bytes_read = kept_bytes = 0
    wrong = ""

    def note(data: bytes) -> None:
        nonlocal bytes_read
        bytes_read += len(data)

    rule = ImageRule(settings.image, settings.several_images)
    options, most = settings.storage_options, settings.max_sample_bytes
    start = time.perf_counter()
    for shard in shards:
        if count >= FEWEST and time.perf_counter() - start > seconds:
            break
        try:
            with as_request(f"{shard.uri} cannot be read"):
                for sample in read_samples(shard, options, note, most, rule):
                    count += 1
                    if len(kept) < MOST_KEPT and kept_bytes < MOST_BYTES:
                        kept.append(sample)
                        kept_bytes += sum(map(len, sample.members.values()))
                    passed = time.perf_counter() - start
                    tell("storage", count / passed)
                    if count >= FEWEST and passed > seconds:
                        break
        except ShardError as error:
            # A run would give it up and go on.
            wrong = one_line(error)
    if not kept:
        raise RequestError(f"no sample of {len(shards)} shards can be read: {wrong or 'all empty'}")
    return Reading(kept, count, bytes_read, time.perf_counter() - start)
