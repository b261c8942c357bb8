"""A whole run, from the shards to published files, that is ended when its time is up."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from cambox.annotator import Annotator
from cambox.console import one_line
from cambox.engines.local import SECONDS_TO_END, SHARDS_IN_WORK, Prefetch
from cambox.errors import UnavailableError
from cambox.measure.clock import Tell
from cambox.shard_report import Progress, ShardReport
from cambox.sources.shards import Shard

LOOKS_A_SECOND = 10
# So many times as long as it should take, where it has come to nothing.
PATIENCE = 10
# Of fewer it tells too much which of them ended just in time.
BATCHES_OF_A_LANE = 3


@dataclass
class _Count:
    """Images from the beginning to the last batch that was done.

    The first batch is waited for longer than the others; but lanes end at about the same time, so
    that without it two batches would seem to have taken none.
    """

    tell: Tell
    wanted: int
    start: float = field(default_factory=time.perf_counter)
    images: int = 0
    batches: int = 0
    last: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, progress: Progress) -> None:
        if progress.samples:
            with self.lock:
                self.last = time.perf_counter()
                self.images += progress.samples
                self.batches += 1
                self.tell("end to end", self.rate)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / max(self.last - self.start, 1e-9)

    def enough(self, seconds: float) -> bool:
        """Whether time is up; a batch of a slow network may take longer than was thought."""
        passed = time.perf_counter() - self.start
        return passed > (seconds if self.batches >= self.wanted else PATIENCE * seconds)


def end_to_end(
    annotator: Annotator, shards: Sequence[Shard], seconds: float, tell: Tell
) -> tuple[float, dict[str, float]]:
    """Images a second of the shards, again and again, as the local engine takes them.

    The annotator is closed after it: a shard still in work fails, and nobody gets its rows.

    Returns:
        Also milliseconds an image by stage, of the shards that came to their end.

    Raises:
        UnavailableError: no shard can be read, or no batch was done in time.
    """
    count = _Count(tell, BATCHES_OF_A_LANE * len(annotator.lanes))
    prefetch = Prefetch(annotator, count.advance)
    reports: list[ShardReport] = []
    wrong: list[Exception] = []
    ended = threading.Event()

    def work() -> None:
        left, in_work = deque(shards), deque[tuple[Shard, Future[ShardReport]]]()
        while not ended.is_set() and (left or in_work):
            # A shard is not in work twice: both would write the same file.
            try:
                if left and len(in_work) < SHARDS_IN_WORK:
                    in_work.append((left[0], prefetch.begin(left.popleft())))
                    continue
                shard, report = in_work.popleft()
                reports.append(report.result())
                prefetch.end(shard)
                left.append(shard)
            except Exception as error:  # noqa: BLE001 (a run gives the shard up; told below)
                # What is in work when time is up fails, and is meant to.
                if not ended.is_set():
                    wrong.append(error)

    # As a daemon: of a storage that hangs it would never end.
    worker = threading.Thread(target=work, name="hand out", daemon=True)
    # As the local engine does.
    gc.freeze()
    try:
        worker.start()
        while worker.is_alive() and not count.enough(seconds):
            worker.join(1 / LOOKS_A_SECOND)
    finally:
        ended.set()
        prefetch.close(SECONDS_TO_END)
        gc.unfreeze()
    if not count.batches:
        why = one_line(wrong[0]) if wrong else f"no batch was done in {PATIENCE * seconds:.0f} s"
        raise UnavailableError(f"no shard was annotated: {why}")
    stages = Counter[str]()
    for one in reports:
        stages.update(one.stage_seconds)  # type: ignore[arg-type]
    images = sum(one.samples for one in reports)
    return count.rate, {stage: 1000 * taken / images for stage, taken in stages.items() if images}
