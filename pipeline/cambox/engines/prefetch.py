"""A worker's shards: the next is begun when one is read, and how far each is.

The last batches of a shard are computed, and its file is written, while the next is read. Where
shards are small, or the network is fast, a worker would else wait at the end of each as long as it
works on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from cambox.annotator import Annotator, Progress, ShardReport
from cambox.sources.shards import Shard

# One is read, one computed to its end, and one written, which takes long on a remote storage.
SHARDS_IN_WORK = 3


@dataclass(frozen=True)
class WorkerProgress:
    """What a worker says of itself.

    Attributes:
        total: what it has read and annotated since it started.
        still_seconds: since its oldest shard in work moved; 0 without any. Older shards are
            computed first, so that one moves as long as all is well.
        warnings: what it has logged since it last said so.
    """

    total: Progress
    still_seconds: float
    warnings: tuple[str, ...] = ()


class Prefetch:
    """The shards in work of an annotator, which is ended with it.

    Args:
        on_progress: called from any thread with what is new.
    """

    def __init__(
        self, annotator: Annotator, on_progress: Callable[[Progress], None] = lambda progress: None
    ) -> None:
        self._annotator = annotator
        self._on_progress = on_progress
        self._pool = ThreadPoolExecutor(SHARDS_IN_WORK, thread_name_prefix="shard")
        self._lock = threading.Lock()
        self._total = Progress()
        # When each shard in work last moved, the oldest first: one may hang while others go on.
        self._moved: dict[Shard, float] = {}

    def begin(self, shard: Shard) -> Future[ShardReport]:
        """Begin a shard, and return when it was read to its end or failed.

        Returns:
            what ``Annotator.annotate`` gives or raises.
        """
        with self._lock:
            self._moved[shard] = time.monotonic()
        read = threading.Event()
        advance = partial(self._advance, shard)
        report = self._pool.submit(self._annotator.annotate, shard, advance, read.set)
        report.add_done_callback(lambda _: read.set())
        read.wait()
        return report

    def end(self, shard: Shard) -> None:
        """Forget a shard that is published, or has failed."""
        with self._lock:
            del self._moved[shard]

    def progress(self, warnings: tuple[str, ...] = ()) -> WorkerProgress:
        """How far it is, and since when its oldest shard has not moved; from any thread."""
        now = time.monotonic()
        with self._lock:
            still = now - next(iter(self._moved.values()), now)
            return WorkerProgress(self._total, still, warnings)

    def close(self) -> None:
        """End the annotator, and with it the shards in work."""
        # First, so that shards in work fail at their next batch, and nobody waits for their ends.
        self._annotator.close()
        self._pool.shutdown(cancel_futures=True)

    def _advance(self, shard: Shard, new: Progress) -> None:
        with self._lock:
            self._total = Progress(
                self._total.bytes_read + new.bytes_read, self._total.samples + new.samples
            )
            self._moved[shard] = time.monotonic()
        self._on_progress(new)
