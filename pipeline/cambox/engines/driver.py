"""The driver of a cluster's workers: who gets which shard, and what becomes of those that die.

An actor reads one shard at a time; it gets the next when that one is read, so that none waits in
line at one actor while another has nothing to do. The driver keeps the counts: the shards of an
actor that dies are tried again on a fresh one. How an actor is started and asked is the cluster's.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from cambox.canary.rows import Canary
from cambox.canary.workers import Alike, Made
from cambox.config import EngineSettings
from cambox.console import counted, one_line
from cambox.engines.calls import Actor
from cambox.engines.local import SHARDS_IN_WORK, WorkerProgress
from cambox.engines.sizing import Place, Pool
from cambox.engines.waiting import (
    ELSEWHERE_SECONDS,
    PATIENCE_SECONDS,
    REMEDY,
    Waiting,
    who_is_missing,
)
from cambox.engines.worklist import Observer, Outcome, WorkList
from cambox.output.footer import library_versions
from cambox.sources.shards import Shard

POLL_SECONDS = 1.0


class LostActorError(Exception):
    """An actor died, or cannot be reached; the message says of what."""


class ActorCodeError(Exception):
    """The code of an actor raised ``cause``; the actor lives."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class Cluster(Protocol):
    """What the driver asks of a cluster."""

    def start(self, place: Place) -> Actor:
        """Ask for an actor, which loads its model as soon as it runs."""

    def end(self, actor: Actor) -> None:
        """End an actor's process, which gives its place back."""

    def answered(self, calls: list[Any], others: list[Any], seconds: float) -> Collection[Any]:
        """All that are answered, once one of the first is, or after so many seconds."""

    def answer(self, call: Any) -> Any:
        """What a call gave.

        Raises:
            ActorCodeError, LostActorError: it gave nothing.
        """

    def nodes(self) -> Sequence[Mapping[str, Any]]:
        """See ``cluster_in_words``."""

    def free(self) -> Mapping[str, float]:
        """The resources that nobody uses."""


class Driver:
    """One pass over a list of shards.

    Args:
        canary: what the driver makes of the built-in pictures.
    """

    def __init__(
        self,
        cluster: Cluster,
        pool: Pool,
        settings: EngineSettings,
        canary: Canary | None,
        shards: tuple[Shard, ...],
        observer: Observer,
    ) -> None:
        self.cluster = cluster
        self.pool = pool
        self.settings = settings
        self.observer = observer
        self.work = WorkList(shards, settings.max_attempts, observer)
        self.failed_starts = 0
        self.last_start_error = ""
        # Of the driver's own kind there is no worker: all are compared with it.
        self.alike = Alike(Made("the driver's machine", "driver", canary, library_versions()))
        self.waiting = Waiting(settings.wait_seconds, time.monotonic(), PATIENCE_SECONDS)
        self.actors = [cluster.start(place) for place in pool.places[: len(shards)]]

    def to_the_end(self) -> list[Outcome]:
        """Hand out the shards until each is done or given up."""
        try:
            while self.work.unfinished and self.actors:
                self._wait_for_answers()
                self._replace_stalled()
                self._look_for_places()
            self.work.give_up_the_rest(f"no worker could be started: {self.last_start_error}")
        finally:
            for actor in self.actors:
                self.cluster.end(actor)
        return self.work.outcomes

    def _wait_for_answers(self) -> None:
        for actor in self.actors:
            actor.ask(POLL_SECONDS)
        calls = [call for actor in self.actors for call in actor.calls]
        calls += [actor.placing for actor in self.actors if actor.placing is not None]
        questions = [actor.asked for actor in self.actors if actor.asked is not None]
        answered = self.cluster.answered(calls, questions, POLL_SECONDS)
        for actor in list(self.actors):
            if actor.placing in answered:
                self._take_place(actor)
            if actor.asked in answered:
                self._take_answer(actor)
            for call in list(actor.calls):
                # One that was lost with its actor was dealt with at the actor's first.
                if call in answered and actor in self.actors:
                    self._finish_call(actor, call)

    def _take_place(self, actor: Actor) -> None:
        placing, actor.placing = actor.placing, None
        # Loading, which was asked for at once, tells an error, too, and is what counts.
        with suppress(LostActorError, ActorCodeError):
            self.cluster.answer(placing)
            actor.placed = time.monotonic()

    def _take_answer(self, actor: Actor) -> None:
        asked, actor.asked = actor.asked, None
        # The actor's calls tell an error, too, and are what counts.
        with suppress(LostActorError, ActorCodeError):
            self._note_progress(actor, self.cluster.answer(asked))

    def _note_progress(self, actor: Actor, progress: WorkerProgress) -> None:
        actor.hear(progress)
        self.observer.advance(progress.new)
        for warning in progress.warnings:
            self.observer.note(warning)

    def _finish_call(self, actor: Actor, call: Any) -> None:
        shard, was_read = actor.calls[call], call is actor.reading
        try:
            result = self.cluster.answer(call)
        except ActorCodeError as error:
            if shard is None:
                self._replace(actor, f"the worker failed: {one_line(error.cause)}")
                return
            actor.end(call)
            self.work.failed(shard, error.cause)
        except LostActorError as error:
            late = actor.of_its_time(self.settings.start_seconds)
            self._replace(actor, f"the worker died: {error}{late}")
            return
        else:
            if shard is None and (found := self.alike.difference(result)) is not None:
                self._replace(actor, found)
                return
            actor.end(call)
            if shard is None:
                self.failed_starts = 0
                threads = counted(actor.place.size.threads, "thread")
                self.observer.note(
                    f"worker ready: {result.where}, computing on {result.kind}, {threads}"
                )
            elif was_read:
                self._note_progress(actor, result)
                actor.calls[actor.handle.report.remote(shard)] = shard
            else:
                report, progress = result
                self._note_progress(actor, progress)
                self.work.finish(report)
        self._next_shard(actor)

    def _next_shard(self, actor: Actor) -> None:
        if actor.reading is not None or len(actor.calls) >= SHARDS_IN_WORK:
            return
        shard = self.work.next(beside=actor.shards)
        if shard is not None:
            actor.begin(shard)
        elif not actor.shards:
            self.actors.remove(actor)
            # An idle actor gives its GPU back.
            self.cluster.end(actor)

    def _replace_stalled(self) -> None:
        """A hung worker differs from a slow one by its progress, so not by the total time."""
        limit = self.settings.stall_seconds
        for actor in list(self.actors):
            if actor.shards and time.monotonic() - actor.moved > limit:
                self._replace(actor, f"no progress for {limit:g} s; the worker was replaced")

    def _replace(self, actor: Actor, reason: str) -> None:
        self.actors.remove(actor)
        # One that only cannot be reached may live, and would keep its GPU from the next.
        self.cluster.end(actor)
        if actor.starting:
            self.failed_starts, self.last_start_error = self.failed_starts + 1, reason
            self.observer.note(f"a worker did not start: {reason}")
        else:
            self.work.lost(actor.shards, reason)
        if self.failed_starts < self.settings.max_attempts and (
            len(self.actors) < self.work.unfinished
        ):
            place = self.pool.again(actor.place, self.cluster.nodes())
            self.actors.append(self.cluster.start(place))

    def _look_for_places(self) -> None:
        """Say which workers are missing, and end a run that gets none."""
        now = time.monotonic()
        for actor in list(self.actors):
            waits = actor.starting and actor.placed is None and actor.place.node is not None
            if waits and now - actor.asked_for > ELSEWHERE_SECONDS:
                self._send_elsewhere(actor)
        starting = [actor for actor in self.actors if actor.starting]
        without = [actor.place.size for actor in starting if actor.placed is None]
        placed = len(self.actors) - len(without)
        what = self.waiting.look(placed, len(starting), now)
        if what == "go on":
            return
        loading = len(starting) - len(without)
        missing = who_is_missing(without, loading, self.cluster.nodes(), self.cluster.free())
        if what == "tell":
            self.observer.note(f"still waiting for {missing}{self.waiting.ends(placed, now)}")
            return
        self.last_start_error = f"{self.waiting.ended}: {missing}; {REMEDY}"
        for actor in self.actors:
            self.cluster.end(actor)
        self.actors = []

    def _send_elsewhere(self, actor: Actor) -> None:
        """Its node is busy with others, or gone: Ray would wait for that one."""
        spare = Place(self.pool.spare)
        self.observer.note(
            f"no place for a worker of {actor.place.size} on node {str(actor.place.node)[:8]} for "
            f"{ELSEWHERE_SECONDS:g} s; now one of {spare.size} is asked for wherever there is room"
        )
        self.cluster.end(actor)
        self.actors[self.actors.index(actor)] = self.cluster.start(spare)
