"""What runs in an actor of a cluster: a worker, its deadline to load, and its warnings."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TextIO

import torch

from cambox.canary.workers import Made
from cambox.config import Config
from cambox.engines.local import Prefetch, WorkerProgress
from cambox.engines.worker import (
    load_model,
    local_device,
    make_annotator,
    resolve_precision,
    try_pictures,
)
from cambox.models.heads import HeadKind
from cambox.output.footer import library_versions
from cambox.shard_report import ShardReport
from cambox.sources.shards import Shard

MOST_WARNINGS = 20


class Worker:
    """What runs in an actor: a classifier on its own device, and the shards in work.

    It is made at once, which tells the driver that it has its place, and loads its model after.

    Args:
        recipe_digest, head: what the driver found; ``head`` is the kind of the classifier's.
        retried: see ``Annotator``.
        images: that this worker will annotate, about; None: not known.
        gpu_share: see ``make_annotator``.
    """

    def __init__(
        self,
        config: Config,
        recipe_digest: str,
        head: HeadKind,
        threads: int,
        retried: frozenset[str] = frozenset(),
        images: int | None = None,
        gpu_share: float = 1.0,
    ) -> None:
        self.warnings = Warnings()
        self.config = config
        self.recipe_digest = recipe_digest
        self.head = head
        self.threads = threads
        self.retried = retried
        self.images = images
        self.gpu_share = gpu_share
        self.begun: dict[Shard, Future[ShardReport]] = {}

    def where(self) -> str:
        """Where it runs, in words."""
        return f"process {os.getpid()}"

    def load(self) -> Made:
        """Load the model, and annotate the built-in pictures.

        Raises:
            RuntimeError: this process finds another recipe.
        """
        config = self.config
        with _deadline(config.engine.start_seconds):
            device = local_device()
            precision = resolve_precision(config, device.type == "cuda")
            model = load_model(config, device, precision, self.threads, self.head)
            if model.recipe.digest != self.recipe_digest:
                raise RuntimeError(
                    f"the recipe {model.recipe.folder} of the worker of {self.where()} differs "
                    f"from the driver's {self.recipe_digest[:16]}: its files or library versions "
                    "are not the driver's"
                )
            canary = try_pictures(config, model, self.threads)
            annotator = make_annotator(
                *(config, model, self.threads, canary, self.retried),
                images=self.images,
                gpu_share=self.gpu_share,
            )
            self.prefetch = Prefetch(annotator)
        # Until the process ends; see the local engine.
        gc.freeze()
        return Made(self.where(), kind_of(device), canary, library_versions())

    def begin(self, shard: Shard) -> WorkerProgress:
        """Annotate a shard; gives the progress when it was read to its end, or failed."""
        self.begun[shard] = self.prefetch.begin(shard)
        return self.progress()

    def report(self, shard: Shard) -> tuple[ShardReport, WorkerProgress]:
        """Wait until a shard that was begun is published; raises what it failed of."""
        try:
            report = self.begun.pop(shard).result()
        finally:
            self.prefetch.end(shard)
        self.count(report)
        return report, self.progress()

    def count(self, report: ShardReport) -> None:
        """A shard is published; for who keeps statistics."""

    def progress(self) -> WorkerProgress:
        """What is new, and since when its oldest shard has not moved."""
        return self.prefetch.progress(self.warnings.take())


def kind_of(device: torch.device) -> str:
    """What devices that compute alike, but for rounding, have in common."""
    if device.type != "cuda":
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """End this process if it takes longer; its log says where it was.

    What hangs may hold the interpreter, so the clock is the library's own thread.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class Warnings(logging.StreamHandler[TextIO]):
    """Keeps what cambox warns of in an actor, for the driver, which does not see its output."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self._kept = deque[str](maxlen=MOST_WARNINGS)
        self._dropped = 0
        logging.getLogger("cambox").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one, of many the latest; Ray's log of the process has all of them."""
        super().emit(record)
        self._dropped += len(self._kept) == MOST_WARNINGS
        self._kept.append(f"process {os.getpid()}: {record.getMessage()}")

    def take(self) -> tuple[str, ...]:
        """Those since the last time."""
        self.acquire()
        try:
            kept, dropped = tuple(self._kept), self._dropped
            self._kept.clear()
            self._dropped = 0
        finally:
            self.release()
        more = (f"process {os.getpid()}: and {dropped} warnings before these",) if dropped else ()
        return (*more, *kept)
