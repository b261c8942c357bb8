"""A whole run, from the shards to published files, that is ended when its time is up."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from cambox.annotator import Annotator, Progress, ShardReport
from cambox.console import one_line
from cambox.engines.local import SECONDS_TO_END, SHARDS_IN_WORK, Prefetch
from cambox.errors import UnavailableError
from cambox.measure.clock import Tell
from cambox.sources.shards import Shard

LOOKS_A_SECOND = 10
# So many times as long as it should take, where it has come to nothing.
PATIENCE = 10


@dataclass
class _Count:
    """Images since the first batch was done, which is when all parts are at work."""

    tell: Tell
    images: int = 0
    first: float | None = None
    last: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, progress: Progress) -> None:
        if not progress.samples:
            return
        with self.lock:
            self.last = time.perf_counter()
            if self.first is None:
                self.first = self.last
                return
            self.images += progress.samples
            self.tell("end to end", self.rate)

    @property
    def rate(self) -> float:
        """Images a second; 0 before the second batch."""
        return 0.0 if self.first is None else self.images / max(self.last - self.first, 1e-9)


def _goes_on(passed: float, seconds: float, most: float, count: _Count) -> bool:
    return passed < (seconds if count.rate else most)


def end_to_end(
    annotator: Annotator, shards: Sequence[Shard], seconds: float, tell: Tell
) -> tuple[float, dict[str, float]]:
    """Images a second of the shards, again and again, as the local engine takes them.

    The annotator is closed after it: a shard still in work fails, and nobody gets its rows.

    Returns:
        Also milliseconds an image by stage, of the shards that came to their end.

    Raises:
        UnavailableError: no shard can be read, or not a second batch was done in time.
    """
    count = _Count(tell)
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
    start = time.perf_counter()
    # As the local engine does.
    gc.freeze()
    try:
        worker.start()
        # A batch of a slow network may take longer than was thought; two are needed for a rate.
        most = PATIENCE * seconds
        while worker.is_alive() and _goes_on(time.perf_counter() - start, seconds, most, count):
            worker.join(1 / LOOKS_A_SECOND)
    finally:
        ended.set()
        prefetch.close(SECONDS_TO_END)
        gc.unfreeze()
    if count.rate == 0.0:
        why = one_line(wrong[0]) if wrong else f"not two batches were done in {most:.0f} s"
        raise UnavailableError(f"no shard was annotated: {why}")
    stages = Counter[str]()
    for one in reports:
        stages.update(one.stage_seconds)  # type: ignore[arg-type]
    images = sum(one.samples for one in reports)
    return count.rate, {stage: 1000 * taken / images for stage, taken in stages.items() if images}
