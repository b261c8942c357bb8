"""Named points of a shard's way at which a test makes something happen; no production code knows.

What happens at a point is a function of the point's and the shard's name: it may kill the process,
stop it, raise, or sleep.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import cambox.annotator as station
from cambox.batch import BatchAnnotator
from cambox.output import publish as publishing

BEFORE_READ = "before read"
MID_SHARD = "mid-shard"
BEFORE_PUBLISH = "before publish"
TEMPORARY_WRITTEN = "temporary written, not renamed"
RENAMED = "renamed, folder not synced"
AFTER_PUBLISH = "after publish"
BEFORE_REPLY = "before the reply"
POINTS = (
    BEFORE_READ,
    MID_SHARD,
    BEFORE_PUBLISH,
    TEMPORARY_WRITTEN,
    RENAMED,
    AFTER_PUBLISH,
    BEFORE_REPLY,
)
# Before any shard: only a worker of a cluster comes by, see ``fault_driver``.
CONSTRUCTOR = "constructor"
ANY_SHARD = "any"

# Called with the point and the name of the shard's tar.
Hit = Callable[[str, str], None]


def install(hit: Hit) -> Callable[[], None]:
    """Have this process call ``hit`` at every point, and give back how to undo that."""
    # A shard has a thread, but for its batches.
    in_work = threading.local()

    def annotate(honest: Callable[..., Any]) -> Callable[..., Any]:
        def changed(self: Any, shard: Any, *rest: Any) -> Any:
            in_work.shard = Path(shard.uri).name
            hit(BEFORE_READ, in_work.shard)
            report = honest(self, shard, *rest)
            hit(BEFORE_REPLY, in_work.shard)
            return report

        return changed

    def annotate_batch(honest: Callable[..., Any]) -> Callable[..., Any]:
        def changed(self: Any, shard_uri: str, *rest: Any) -> Any:
            annotated = honest(self, shard_uri, *rest)
            # The built-in pictures are of no shard.
            if shard_uri:
                hit(MID_SHARD, Path(shard_uri).name)
            return annotated

        return changed

    def publish(honest: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            hit(BEFORE_PUBLISH, in_work.shard)
            uri = honest(*arguments)
            hit(AFTER_PUBLISH, in_work.shard)
            return uri

        return changed

    def replace(honest: Callable[..., Any]) -> Callable[..., Any]:
        def changed(self: Path, target: Path) -> Any:
            if not publishing.is_temporary(self.name):
                return honest(self, target)
            hit(TEMPORARY_WRITTEN, in_work.shard)
            renamed = honest(self, target)
            hit(RENAMED, in_work.shard)
            return renamed

        return changed

    def link(honest: Callable[..., Any]) -> Callable[..., Any]:
        def changed(self: Path, target: Path) -> Any:
            if not publishing.is_temporary(target.name):
                return honest(self, target)
            hit(TEMPORARY_WRITTEN, in_work.shard)
            linked = honest(self, target)
            hit(RENAMED, in_work.shard)
            return linked

        return changed

    changes: list[tuple[Any, str, Callable[..., Any]]] = [
        (station.Annotator, "annotate", annotate),
        (BatchAnnotator, "annotate", annotate_batch),
        (station, "publish", publish),
        (Path, "replace", replace),
        (Path, "hardlink_to", link),
    ]
    honest = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, change in changes:
        setattr(owner, name, wraps(getattr(owner, name))(change(getattr(owner, name))))

    def undo() -> None:
        for owner, name, function in honest:
            setattr(owner, name, function)

    return undo


@contextmanager
def installed(hit: Hit) -> Iterator[None]:
    """The same for as long as the context lasts."""
    undo = install(hit)
    try:
        yield
    finally:
        undo()


class CrashError(BaseException):
    """The process ends here: nothing that only survives exceptions may survive it."""


@dataclass(frozen=True)
class Signal:
    """Sends this process a signal at a shard's point; the next process finds a mark and passes.

    Attributes:
        at: the point for each shard's name; ``ANY_SHARD`` for whichever comes first.
        marks: a folder with one file for each signal that was sent.
        times: how often at each.
        number: kill -9, unless it is said otherwise; None hangs for good instead.
    """

    at: Mapping[str, str]
    marks: Path
    times: int = 1
    number: signal.Signals | None = signal.SIGKILL

    def __call__(self, point: str, shard: str) -> None:
        for name in (shard, ANY_SHARD):
            if self.at.get(name) == point and self._mark(f"{name} {point}"):
                if self.number is None:
                    time.sleep(1e6)
                else:
                    # This thread, which the process's other threads may else run ahead of.
                    signal.pthread_kill(threading.get_ident(), self.number)

    def _mark(self, name: str) -> bool:
        self.marks.mkdir(parents=True, exist_ok=True)
        for attempt in range(self.times):
            try:
                (self.marks / f"{name} {attempt}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    @property
    def sent(self) -> int:
        """Signals so far, from all processes."""
        return len(list(self.marks.iterdir())) if self.marks.is_dir() else 0


class Each:
    """Several for one run."""

    def __init__(self, *hits: Signal) -> None:
        self.hits = hits

    def __call__(self, point: str, shard: str) -> None:
        for hit in self.hits:
            hit(point, shard)


@dataclass(frozen=True)
class Slow:
    """Sleeps at every point, so that a random moment seldom falls between two shards.

    Attributes:
        begun: a folder with a file for each process that has begun a shard, named by its number.
        together: so many processes have to have begun a shard before any goes on, as one of them
            may else do all the work while another still starts.
    """

    seconds: float
    begun: Path
    together: int = 1

    def __call__(self, point: str, shard: str) -> None:
        if point != CONSTRUCTOR:
            self.begun.mkdir(parents=True, exist_ok=True)
            (self.begun / str(os.getpid())).touch()
            while len(self.processes) < self.together:
                time.sleep(0.05)
        time.sleep(self.seconds)

    @property
    def processes(self) -> list[int]:
        """The processes that have begun a shard."""
        return [int(path.name) for path in self.begun.iterdir()] if self.begun.is_dir() else []
