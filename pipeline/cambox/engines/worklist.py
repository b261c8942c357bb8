"""The shards of a run: which wait, how often each was tried, and what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from cambox.console import one_line
from cambox.errors import ShardError
from cambox.shard_report import Progress, ShardReport
from cambox.sources.shards import Shard


@dataclass(frozen=True)
class ShardFailure:
    """A shard that nothing was published for.

    Attributes:
        reason: what was wrong, in one line.
        attempts: how often it was tried.
    """

    shard: Shard
    reason: str
    attempts: int


Outcome = ShardReport | ShardFailure


class Observer(Protocol):
    """Whoever watches a run."""

    def advance(self, progress: Progress) -> None:
        """More bytes were read, or samples annotated; called from any thread."""

    def finished(self, outcome: Outcome) -> None:
        """A shard was published or given up."""

    def note(self, text: str) -> None:
        """Something a person should know while the run goes on."""


class WorkList:
    """Hands out shards and sees to it that each ends with exactly one outcome.

    Args:
        shards: in the order to hand them out; one that failed goes to the end.
        max_attempts: a shard that failed so often is given up. When a worker dies with several
            shards, nobody knows which of them it was; that counts for none, and each is tried
            again alone.
    """

    def __init__(self, shards: Sequence[Shard], max_attempts: int, observer: Observer) -> None:
        self.outcomes: list[Outcome] = []
        self._waiting = deque(shards)
        self._attempts = dict.fromkeys(shards, 0)
        self._suspects: set[Shard] = set()
        self._max_attempts = max_attempts
        self._observer = observer

    @property
    def unfinished(self) -> int:
        """Shards without an outcome, waiting or in work."""
        return len(self._attempts) - len(self.outcomes)

    def next(self, beside: Collection[Shard] = ()) -> Shard | None:
        """The next shard to work on; None while there is none.

        Args:
            beside: what the same worker has in work already.
        """
        if any(shard in self._suspects for shard in beside):
            return None
        for shard in self._waiting:
            if not beside or shard not in self._suspects:
                self._waiting.remove(shard)
                self._attempts[shard] += 1
                return shard
        return None

    def failed(self, shard: Shard, error: Exception) -> None:
        """An attempt failed: the shard goes to the end of the line, or is given up.

        A damaged shard stays damaged however often it is read.
        """
        reason = one_line(error)
        if not isinstance(error, (ShardError, WorkerLostError)):
            # The message of a library may tell nothing without the kind.
            reason = f"{type(error).__name__}: {reason}"
        attempts = self._attempts[shard]
        if isinstance(error, ShardError) or attempts >= self._max_attempts:
            self.finish(ShardFailure(shard, reason, attempts))
        else:
            self._observer.note(f"{shard.uri}: {reason}; attempt {attempts} failed")
            self._waiting.append(shard)

    def lost(self, shards: Collection[Shard], reason: str) -> None:
        """The worker of these shards died or hung."""
        for shard in shards:
            if len(shards) == 1:
                self.failed(shard, WorkerLostError(reason))
                return
            self._observer.note(f"{shard.uri}: {reason}; one of {len(shards)}, so tried alone")
            self._attempts[shard] -= 1
            self._suspects.add(shard)
            self._waiting.append(shard)

    def give_up_the_rest(self, reason: str) -> None:
        """Nobody is left to work."""
        while self._waiting:
            shard = self._waiting.popleft()
            self.finish(ShardFailure(shard, reason, self._attempts[shard]))

    def finish(self, outcome: Outcome) -> None:
        """A shard is published, or given up."""
        self.outcomes.append(outcome)
        self._observer.finished(outcome)


class WorkerLostError(Exception):
    """The worker of a shard died or hung; the message tells which."""
