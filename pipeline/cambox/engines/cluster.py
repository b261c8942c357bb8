"""Run the shards on a pool of Ray actors.

An actor reads one shard at a time; it gets the next when that one is read, so that none waits in
line at one actor while another has nothing to do. The driver keeps the counts: the shards of an
actor that dies are tried again on a fresh one. Only shards, settings and counters cross between
processes.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from contextlib import suppress
from functools import cached_property
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.metrics import Counter
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cambox.canary.rows import Canary
from cambox.canary.workers import Alike, Made
from cambox.config import Config
from cambox.console import counted, one_line
from cambox.engines.actor import Worker
from cambox.engines.calls import Actor
from cambox.engines.local import SHARDS_IN_WORK, WorkerProgress
from cambox.engines.paths import absolute, runtime_env
from cambox.engines.sigterm import sigterm_as_elsewhere
from cambox.engines.sizing import Place, Pool, size_pool
from cambox.engines.waiting import (
    ELSEWHERE_SECONDS,
    PATIENCE_SECONDS,
    REMEDY,
    Waiting,
    cluster_in_words,
    who_is_missing,
)
from cambox.engines.worker import load_model, resolve_precision, try_pictures
from cambox.engines.worklist import Observer, Outcome, WorkList
from cambox.errors import UnavailableError
from cambox.output.footer import library_versions
from cambox.shard_report import ShardReport
from cambox.sources.shards import Shard, about_images

LOG = logging.getLogger(__name__)

POLL_SECONDS = 1.0


class ShardWorker(Worker):
    """The actor, whose Prometheus endpoint tells what it published; Ray prefixes names ``ray_``."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.samples = Counter("cambox_samples", "Rows published.", ("status",))
        self.boxes = Counter("cambox_boxes", "Boxes published.")
        self.no_box = Counter("cambox_maps_without_box", "Maps that gave no box.", ("reason",))
        self.seconds = Counter("cambox_stage_seconds", "Time by stage.", ("stage",))

    def where(self) -> str:
        """Where this actor runs."""
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU")
        return (
            f"process {os.getpid()} on {platform.node()} (node {context.get_node_id()[:8]}, "
            f"{'GPU ' + ', '.join(gpus) if gpus else 'no GPU'})"
        )

    def count(self, report: ShardReport) -> None:
        """Add a published shard; a counter is not touched for nothing, which Ray refuses."""
        for status, rows in report.statuses.items():
            self.samples.inc(rows, {"status": status})
        for reason, maps in report.no_box.items():
            self.no_box.inc(maps, {"reason": reason})
        for stage, seconds in report.stage_seconds.items():
            if seconds > 0:
                self.seconds.inc(seconds, {"stage": stage})
        if report.objects:
            self.boxes.inc(report.objects)


class RayEngine:
    """A pool of actors on the cluster of ``RAY_ADDRESS``, or on a new one on this machine.

    Args:
        retried: see ``Annotator``.
    """

    def __init__(self, config: Config, retried: frozenset[str] = frozenset()) -> None:
        self.retried = retried
        config = absolute(config)
        if not ray.is_initialized():
            # Nearly bare, so that it also works inside a submitted job, which has settings of its
            # own. The dashboard of a cluster that ends with this run would take a CPU's time.
            with sigterm_as_elsewhere():
                ray.init(log_to_driver=False, logging_level="warning", include_dashboard=False)
        self.pool: Pool = size_pool(config.engine, ray.nodes(), ray.available_resources())
        precision = resolve_precision(config, self._workers_compute_on_gpus(config))
        self.config = config.model_copy(
            update={"model": config.model.model_copy(update={"precision": precision})}
        )
        # Loaded here too: a wrong request is refused before any actor starts, and what the head is
        # is decided once, as two devices may differ at the border.
        self.threads = self.pool.spare.threads
        self.model = load_model(self.config, torch.device("cpu"), precision, self.threads)
        self.recipe = self.model.recipe
        self.head = self.model.classifier.head.kind
        self.runtime_env = runtime_env(ray.get_runtime_context().runtime_env)

    @cached_property
    def canary(self) -> Canary | None:
        """What the driver makes of the built-in pictures, with the CPU."""
        return try_pictures(self.config, self.model, self.threads)

    @sigterm_as_elsewhere()
    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Hand out the shards in their order."""
        return _Run(self, shards, observer).to_the_end()

    @sigterm_as_elsewhere()
    def _workers_compute_on_gpus(self, config: Config) -> bool:
        """Ask a worker: a cluster may count GPUs that torch cannot use.

        Raises:
            UnavailableError: no GPU came free.
        """
        gpus, limit = self.pool.spare.gpus, config.engine.wait_seconds
        if config.model.precision != "auto" or not gpus:
            return False
        answer = ray.remote(num_gpus=gpus, num_cpus=0)(torch.cuda.is_available).remote()
        deadline = time.monotonic() + limit
        while not ray.wait([answer], timeout=min(PATIENCE_SECONDS, limit))[0]:
            has = cluster_in_words(ray.nodes(), ray.available_resources())
            if time.monotonic() >= deadline:
                ray.cancel(answer)
                raise UnavailableError(
                    f"model.precision: auto asks a worker what its GPU computes, and no GPU was "
                    f"free for {limit:g} s (engine.wait_seconds); {has}; set bfloat16 or float32, "
                    f"which needs no asking, or run it again when the cluster has a free GPU"
                )
            LOG.warning(
                "model.precision is auto: waiting for a free GPU, to ask it what it computes; %s",
                has,
            )
        return bool(ray.get(answer))


class _Run:
    """One pass over a list of shards."""

    def __init__(self, engine: RayEngine, shards: tuple[Shard, ...], observer: Observer) -> None:
        self.engine = engine
        self.settings = engine.config.engine
        self.observer = observer
        images = about_images(shards)
        self.images_each = None if images is None else images // max(1, len(engine.pool.places))
        self.work = WorkList(shards, self.settings.max_attempts, observer)
        self.failed_starts = 0
        self.last_start_error = ""
        # Of the driver's own kind there is no worker: all are compared with it.
        self.alike = Alike(
            Made("the driver's machine", "driver", engine.canary, library_versions())
        )
        now = time.monotonic()
        self.waiting = Waiting(self.settings.wait_seconds, now, PATIENCE_SECONDS)
        places = engine.pool.places[: len(shards)]
        self.actors = [self._start(place) for place in places]

    def to_the_end(self) -> list[Outcome]:
        try:
            while self.work.unfinished and self.actors:
                self._wait_for_answers()
                self._replace_stalled()
                self._look_for_places()
            self.work.give_up_the_rest(f"no worker could be started: {self.last_start_error}")
        finally:
            for actor in self.actors:
                ray.kill(actor.handle)
        return self.work.outcomes

    def _start(self, place: Place) -> Actor:
        engine = self.engine
        options: dict[str, Any] = {}
        if place.node is not None:
            # Soft: of a node that is gone the actor finds another, if that is as large.
            strategy = NodeAffinitySchedulingStrategy(place.node, soft=True)
            options["scheduling_strategy"] = strategy
        worker = ray.remote(ShardWorker).options(
            num_gpus=place.size.gpus,
            num_cpus=place.size.cpus,
            max_restarts=0,
            max_task_retries=0,
            # One thread waits for each shard; one more, so that progress can be asked for.
            max_concurrency=SHARDS_IN_WORK + 1,
            runtime_env=engine.runtime_env,
            **options,
        )
        handle = worker.remote(
            engine.config,
            engine.recipe.digest,
            engine.head,
            place.size.threads,
            engine.retried,
            self.images_each,
        )
        placing, ready = handle.where.remote(), handle.load.remote()
        return Actor(handle, place, {ready: None}, ready, placing, time.monotonic())

    def _wait_for_answers(self) -> None:
        for actor in self.actors:
            actor.ask(POLL_SECONDS)
        calls = [call for actor in self.actors for call in actor.calls]
        calls += [actor.placing for actor in self.actors if actor.placing is not None]
        questions = [actor.asked for actor in self.actors if actor.asked is not None]
        ray.wait(calls, timeout=POLL_SECONDS)
        everything = [*calls, *questions]
        answered, _ = ray.wait(everything, num_returns=len(everything), timeout=0)
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
        with suppress(RayError):
            ray.get(placing)
            actor.placed = time.monotonic()

    def _take_answer(self, actor: Actor) -> None:
        asked, actor.asked = actor.asked, None
        # The actor's calls tell an error, too, and are what counts.
        with suppress(RayError):
            self._note_progress(actor, ray.get(asked))

    def _note_progress(self, actor: Actor, progress: WorkerProgress) -> None:
        actor.hear(progress)
        self.observer.advance(progress.new)
        for warning in progress.warnings:
            self.observer.note(warning)

    def _finish_call(self, actor: Actor, call: Any) -> None:
        shard, was_read = actor.calls[call], call is actor.reading
        try:
            result = ray.get(call)
        except RayTaskError as error:
            # The actor lives, and its code raised. An error of its constructor is not of this kind.
            cause = error.cause if isinstance(error.cause, Exception) else error
            if shard is None:
                self._replace(actor, f"the worker failed: {one_line(cause)}")
                return
            actor.end(call)
            self.work.failed(shard, cause)
        except RayError as error:
            # Death has many names: the actor's, its node's, out of memory, a failed environment.
            late = actor.of_its_time(self.settings.start_seconds)
            self._replace(actor, f"the worker died: {one_line(error)}{late}")
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
            ray.kill(actor.handle)

    def _replace_stalled(self) -> None:
        """A hung worker differs from a slow one by its progress, so not by the total time."""
        limit = self.settings.stall_seconds
        for actor in list(self.actors):
            if actor.shards and time.monotonic() - actor.moved > limit:
                self._replace(actor, f"no progress for {limit:g} s; the worker was replaced")

    def _replace(self, actor: Actor, reason: str) -> None:
        self.actors.remove(actor)
        # One that only cannot be reached may live, and would keep its GPU from the next.
        ray.kill(actor.handle)
        if actor.starting:
            self.failed_starts, self.last_start_error = self.failed_starts + 1, reason
            self.observer.note(f"a worker did not start: {reason}")
        else:
            self.work.lost(actor.shards, reason)
        if self.failed_starts < self.settings.max_attempts and (
            len(self.actors) < self.work.unfinished
        ):
            self.actors.append(self._start(self.engine.pool.again(actor.place, ray.nodes())))

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
        missing = who_is_missing(without, loading, ray.nodes(), ray.available_resources())
        if what == "tell":
            self.observer.note(f"still waiting for {missing}{self.waiting.ends(placed, now)}")
            return
        self.last_start_error = f"{self.waiting.ended}: {missing}; {REMEDY}"
        for actor in self.actors:
            ray.kill(actor.handle)
        self.actors = []

    def _send_elsewhere(self, actor: Actor) -> None:
        """Its node is busy with others, or gone: Ray would wait for that one."""
        spare = Place(self.engine.pool.spare)
        self.observer.note(
            f"no place for a worker of {actor.place.size} on node {str(actor.place.node)[:8]} for "
            f"{ELSEWHERE_SECONDS:g} s; now one of {spare.size} is asked for wherever there is room"
        )
        ray.kill(actor.handle)
        self.actors[self.actors.index(actor)] = self._start(spare)
