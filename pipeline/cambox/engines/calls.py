"""An actor as its driver sees it: the calls that it has not answered, and when it last moved."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from cambox.engines.local import WorkerProgress
from cambox.engines.sizing import Place
from cambox.sources.shards import Shard

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
