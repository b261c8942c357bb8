"""Shards as in a relay race: the next is begun when the one before is read.

Its last batches are computed and its file is written meanwhile. Where shards are small, or the
network is fast, a worker would wait at the end of each as long as it works on it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event

from cambox.annotate import Annotator, Progress, ShardReport
from cambox.sources.shards import Shard

# One is read, one computed to its end, and one written, which takes long on a remote storage.
SHARDS_IN_WORK = 3


class Relay:
    """Hands shards to an annotator, which is ended with it.

    Args:
        on_progress: called from any thread with a shard and what is new of it.
    """

    def __init__(
        self, annotator: Annotator, on_progress: Callable[[Shard, Progress], None]
    ) -> None:
        self._annotator = annotator
        self._on_progress = on_progress
        self._pool = ThreadPoolExecutor(SHARDS_IN_WORK, thread_name_prefix="shard")
        # The collector looks at all that the libraries and the model hold, again and again, while
        # every thread waits for it; none of it will be garbage.
        gc.freeze()

    def begin(self, shard: Shard) -> Future[ShardReport]:
        """Begin a shard, and return when it was read to its end or failed.

        Returns:
            what ``Annotator.annotate`` gives or raises.
        """
        read = Event()
        on_progress = partial(self._on_progress, shard)
        report = self._pool.submit(self._annotator.annotate, shard, on_progress, read.set)
        report.add_done_callback(lambda _: read.set())
        read.wait()
        return report

    def close(self) -> None:
        """End the annotator, and with it the shards in work."""
        # First, so that shards in work fail at their next batch, and nobody waits for their ends.
        self._annotator.close()
        self._pool.shutdown(cancel_futures=True)
        gc.unfreeze()
