"""How far a worker is, and whether it moves: one shard may hang while others go on."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from cambox.annotator import Progress
from cambox.sources.shards import Shard


@dataclass(frozen=True)
class WorkerProgress:
    """What a worker says of itself.

    Attributes:
        total: what it has read and annotated since it started.
        still_seconds: since its oldest shard in work moved; 0 without any. Older shards are
            computed first, so that one moves as long as all is well.
    """

    total: Progress
    still_seconds: float


class Movement:
    """Keeps count of the shards in work; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Progress()
        # When each last moved, the oldest shard first.
        self._moved: dict[Shard, float] = {}

    def begin(self, shard: Shard) -> None:
        """A shard is in work."""
        with self._lock:
            self._moved[shard] = time.monotonic()

    def advance(self, shard: Shard, progress: Progress) -> None:
        """More of it was read or annotated."""
        with self._lock:
            self._total = Progress(
                self._total.bytes_read + progress.bytes_read,
                self._total.samples + progress.samples,
            )
            self._moved[shard] = time.monotonic()

    def end(self, shard: Shard) -> None:
        """It is published, or has failed."""
        with self._lock:
            del self._moved[shard]

    def progress(self) -> WorkerProgress:
        """Up to now."""
        now = time.monotonic()
        with self._lock:
            return WorkerProgress(self._total, now - next(iter(self._moved.values()), now))
