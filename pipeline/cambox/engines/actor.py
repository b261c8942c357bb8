"""An actor of a cluster, all but Ray itself: what its driver knows of it, and what runs in it."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

import cambox
from cambox.canary.workers import Made
from cambox.config import LOCAL_DIR, Config
from cambox.engines.local import Prefetch, WorkerProgress
from cambox.engines.sizing import Place
from cambox.engines.worker import (
    load_model,
    local_device,
    make_annotator,
    resolve_precision,
    try_pictures,
)
from cambox.errors import RequestError
from cambox.models.heads import HeadKind
from cambox.output.footer import library_versions
from cambox.shard_report import ShardReport
from cambox.sources.shards import Shard
from cambox.sources.storage import canonical_uri

MOST_WARNINGS = 20
# Of an actor's start and end the driver hears a little later.
HEARD_LATE_SECONDS = 2.0


@dataclass(eq=False)
class Actor:
    """The driver's view of an actor; calls are references to what they will give.

    Attributes:
        place: that it was asked for, at ``asked_for``.
        calls: what it has not answered yet, and the shard of each; None: to load its model. The
            report of a shard comes before what is read, as it may be there although it died.
        reading: the call to load, or to begin a shard; None while it does neither.
        placing: the call that is answered as soon as it runs; None: it was, at ``placed``.
        asked: an unanswered question for its progress.
        heard: when it last said how far it is.
        moved: when its oldest shard last did.
    """

    handle: Any
    place: Place
    calls: dict[Any, Shard | None]
    reading: Any
    placing: Any
    asked_for: float
    placed: float | None = None
    asked: Any = None
    heard: float = 0.0
    moved: float = 0.0

    @property
    def starting(self) -> bool:
        """Whether it has not loaded its model yet."""
        return None in self.calls.values()

    @property
    def shards(self) -> list[Shard]:
        """All that it has in work."""
        return [shard for shard in self.calls.values() if shard is not None]

    def of_its_time(self, limit: float) -> str:
        """What to say of one that died, where it did so because it may load for so many seconds."""
        if not self.starting or self.placed is None:
            return ""
        if time.monotonic() - self.placed < limit - HEARD_LATE_SECONDS:
            return ""
        return f"; it had engine.start_seconds, {limit:g} s, to load its model"

    def ask(self, poll_seconds: float) -> None:
        """Ask it how far it is, if it was not heard for so long; its other answers tell it, too."""
        quiet = time.monotonic() - self.heard > poll_seconds
        if self.shards and self.asked is None and quiet:
            self.asked = self.handle.progress.remote()

    def begin(self, shard: Shard) -> None:
        """Give it a shard more."""
        self.heard = time.monotonic()
        # Of those that it has already, one may hang; it is not forgotten for the next.
        if not self.shards:
            self.moved = self.heard
        self.reading = self.handle.begin.remote(shard)
        self.calls[self.reading] = shard

    def end(self, call: Any) -> None:
        """Forget a call that was answered."""
        del self.calls[call]
        if call is self.reading:
            self.reading = None

    def hear(self, progress: WorkerProgress) -> None:
        """Note when its oldest shard last moved."""
        self.heard = time.monotonic()
        self.moved = self.heard - progress.still_seconds


class Worker:
    """What runs in an actor: a classifier on its own device, and the shards in work.

    It is made at once, which tells the driver that it has its place, and loads its model after.

    Args:
        recipe_digest, head: what the driver found; ``head`` is the kind of the classifier's.
        retried: see ``Annotator``.
        images: that this worker will annotate, about; None: not known.
    """

    def __init__(
        self,
        config: Config,
        recipe_digest: str,
        head: HeadKind,
        threads: int,
        retried: frozenset[str] = frozenset(),
        images: int | None = None,
    ) -> None:
        self.warnings = Warnings()
        self.config = config
        self.recipe_digest = recipe_digest
        self.head = head
        self.threads = threads
        self.retried = retried
        self.images = images
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
                config, model, self.threads, canary, self.retried, self.images
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


def absolute(config: Config) -> Config:
    """The same configuration with paths that mean the same to a worker in another folder.

    Raises:
        RequestError: a relative output inside a job's temporary folder.
    """
    output = canonical_uri(config.output.uri)
    if output != config.output.uri and _in_a_jobs_folder():
        raise RequestError(
            f"output.uri: {config.output.uri} is relative, and this job runs in a temporary folder "
            f"that is deleted after it; give a URL, or an absolute path that all nodes share"
        )
    model = config.model
    paths = {
        name: canonical_uri(path)
        for name in ("checkpoint", "class_names")
        if (path := getattr(model, name)) is not None
    }
    if model.source == LOCAL_DIR:
        paths["name"] = f"{LOCAL_DIR}:{canonical_uri(model.name.partition(':')[2])}"
    listed = config.input.class_names
    named = {"class_names": canonical_uri(listed)} if isinstance(listed, str) else {}
    return config.model_copy(
        update={
            "input": config.input.model_copy(update=named),
            "output": config.output.model_copy(update={"uri": output}),
            "model": model.model_copy(update=paths),
        }
    )


def runtime_env(of_the_job: Mapping[str, Any]) -> dict[str, Any]:
    """What an actor needs so that it can import cambox: nothing where that is installed.

    Of a submitted job's folder each node has a copy, in a place of its own, where workers start.

    Args:
        of_the_job: the environment that its job has already.
    """
    root = Path(cambox.__file__).resolve().parents[1]
    if "site-packages" in root.parts or "dist-packages" in root.parts:
        return {}
    folder = Path.cwd().resolve()
    if _in_a_jobs_folder() and folder in root.parents:
        root = root.relative_to(folder)
    others = of_the_job.get("env_vars", {}).get("PYTHONPATH", "${PYTHONPATH}")
    return {"env_vars": {"PYTHONPATH": os.pathsep.join([str(root), others])}}


def _in_a_jobs_folder() -> bool:
    return "runtime_resources" in Path.cwd().parts
