"""Run the shards in this process: the next is begun when one is read.

The last batches of a shard are computed, and its file is written, while the next is read. Where
shards are small, or the network is fast, a worker would else wait at the end of each as long as it
works on it.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from cambox.annotator import Annotator
from cambox.canary.rows import Canary
from cambox.config import Config
from cambox.console import counted
from cambox.engines.sizing import workers_on_a_gpu
from cambox.engines.worker import (
    load_model,
    local_device,
    make_annotator,
    resolve_precision,
    try_pictures,
)
from cambox.engines.worklist import Observer, Outcome, WorkList
from cambox.errors import RequestError
from cambox.shard_report import Progress, ShardReport
from cambox.sources.shards import Shard, about_images
from cambox.threads import usable_cpus

# One is read, one computed to its end, and one written, which takes long on a remote storage.
SHARDS_IN_WORK = 3
# More than the CPUs cost some time; thousands of threads end the process where no stack is left.
MOST_THREADS_A_CPU = 8
# What was begun may be published yet, when the run is told to end; Kubernetes gives 30 s in all.
SECONDS_TO_END = 4.0


@dataclass(frozen=True)
class WorkerProgress:
    """What a worker says of itself.

    Attributes:
        new: what it has read and annotated since it last said so.
        still_seconds: since its oldest shard in work moved; 0 without any. Older shards are
            computed first, so that one moves as long as all is well.
        warnings: what it has logged since it last said so.
    """

    new: Progress
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
        self._new = Progress()
        # When each shard in work last moved, the oldest first: one may hang while others go on.
        self._moved: dict[Shard, float] = {}
        # The last ones; earlier ones have ended.
        self._reports = deque[Future[ShardReport]](maxlen=SHARDS_IN_WORK)

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
        self._reports.append(report)
        report.add_done_callback(lambda _: read.set())
        read.wait()
        return report

    def end(self, shard: Shard) -> None:
        """Forget a shard that is published, or has failed."""
        with self._lock:
            del self._moved[shard]

    def progress(self, warnings: tuple[str, ...] = ()) -> WorkerProgress:
        """What is new, and since when its oldest shard has not moved; from any thread."""
        now = time.monotonic()
        with self._lock:
            still = now - next(iter(self._moved.values()), now)
            new, self._new = self._new, Progress()
            return WorkerProgress(new, still, warnings)

    def close(self, seconds: float | None = None) -> None:
        """End the annotator, and with it the shards in work.

        Args:
            seconds: to wait for them at most, as one may hang in its storage; None: until they end.
        """
        # First, so that shards in work fail at their next batch, and nobody waits for their ends.
        self._annotator.close(wait=seconds is None)
        self._pool.shutdown(wait=seconds is None, cancel_futures=True)
        wait(self._reports, seconds)

    def _advance(self, shard: Shard, new: Progress) -> None:
        with self._lock:
            self._new = Progress(
                self._new.bytes_read + new.bytes_read, self._new.samples + new.samples
            )
            self._moved[shard] = time.monotonic()
        self._on_progress(new)


@contextmanager
def _closed(prefetch: Prefetch) -> Iterator[None]:
    try:
        yield
    except Exception:
        prefetch.close()
        raise
    except BaseException:
        # Someone waits for the end, and a storage that hangs would be waited for as long.
        prefetch.close(SECONDS_TO_END)
        raise
    prefetch.close()


class LocalEngine:
    """One worker in this process, on its GPU where it has one.

    Args:
        retried: see ``Annotator``.
    """

    def __init__(self, config: Config, retried: frozenset[str] = frozenset()) -> None:
        self.config = config
        self.retried = retried
        device = local_device()
        threads = config.engine.cpus_per_worker
        cpus = os.cpu_count() or 1
        if threads != "auto" and threads > MOST_THREADS_A_CPU * cpus:
            raise RequestError(
                f"engine.cpus_per_worker: {threads} is far more than the {counted(cpus, 'CPU')} "
                "here; lower it, or set it to auto"
            )
        self.threads = usable_cpus() if threads == "auto" else threads
        precision = resolve_precision(config, device.type == "cuda")
        self.model = load_model(config, device, precision, self.threads)
        self.recipe = self.model.recipe

    @cached_property
    def canary(self) -> Canary | None:
        """What this process makes of the built-in pictures."""
        return try_pictures(self.config, self.model, self.threads)

    def _of_how_many(self) -> str:
        """What a GPU machine could do with more workers, which this engine has not."""
        if self.model.classifier.device.type != "cuda":
            return ""
        gpus = torch.cuda.device_count()
        workers = gpus * workers_on_a_gpu(usable_cpus() / gpus)
        return f"; engine.name: ray runs {workers} here, and is quicker" if workers > 1 else ""

    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Annotate the shards; one that the storage failed for goes back to the end of the line."""
        work = WorkList(shards, self.config.engine.max_attempts, observer)
        annotator = make_annotator(
            *(self.config, self.model, self.threads, self.canary, self.retried),
            images=about_images(shards),
        )
        prefetch = Prefetch(annotator, observer.advance)
        with _closed(prefetch), ExitStack() as afterwards:
            # What libraries and the model hold is not searched for garbage meanwhile: the collector
            # would look at all of it again and again, while every thread waits for it.
            gc.freeze()
            afterwards.callback(gc.unfreeze)
            device = self.model.classifier.device
            observer.note(f"one worker on {device}, {self.threads} threads{self._of_how_many()}")
            in_work: dict[Future[ShardReport], Shard] = {}
            while work.unfinished:
                shard = work.next() if len(in_work) < SHARDS_IN_WORK else None
                if shard is not None:
                    in_work[prefetch.begin(shard)] = shard
                timeout = None if shard is None else 0
                for report in wait(in_work, timeout, FIRST_COMPLETED).done:
                    ended = in_work.pop(report)
                    prefetch.end(ended)
                    error = report.exception()
                    if error is None:
                        work.finish(report.result())
                    elif isinstance(error, Exception):
                        work.failed(ended, error)
                    else:
                        raise error
        return work.outcomes
