"""What an engine tells of each shard, and of its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cambox.annotator import Progress, ShardReport
from cambox.output.footer import Recipe
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


class Engine(Protocol):
    """Something that annotates shards under one recipe."""

    @property
    def recipe(self) -> Recipe:
        """The recipe that all of its workers share."""

    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Annotate the shards; each gets exactly one outcome."""
