"""Run the shards on a pool of Ray actors.

An actor reads one shard at a time; it gets the next when that one is read, so that none waits in
line at one actor while another has nothing to do. The driver keeps the counts: the shards of an
actor that dies are tried again on a fresh one. Only shards, settings and counters cross between
processes.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from functools import cached_property
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.metrics import Counter

from cambox.annotator import ShardReport
from cambox.canary.rows import Canary
from cambox.config import Config
from cambox.console import one_line
from cambox.engines.actor import Actor, Worker, absolute, runtime_env
from cambox.engines.local import SHARDS_IN_WORK, WorkerProgress
from cambox.engines.sigterm import sigterm_as_elsewhere
from cambox.engines.sizing import Pool, size_pool
from cambox.engines.worker import load_model, resolve_precision, try_pictures
from cambox.engines.worklist import Observer, Outcome, WorkList
from cambox.errors import RequestError
from cambox.sources.shards import Shard, about_images

LOG = logging.getLogger(__name__)

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
# Nodes that are started for a run take minutes.
GPU_SECONDS = 600.0


class ShardWorker(Worker):
    """The actor, whose Prometheus endpoint tells what it published; Ray prefixes names ``ray_``."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.samples = Counter("cambox_samples", "Rows published.", ("status",))
        self.boxes = Counter("cambox_boxes", "Boxes published.")
        self.no_box = Counter("cambox_maps_without_box", "Maps that gave no box.", ("reason",))
        self.seconds = Counter("cambox_stage_seconds", "Time by stage.", ("stage",))

    def describe(self) -> str:
        """Where this actor runs."""
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU")
        return (
            f"process {os.getpid()} on node {context.get_node_id()[:8]}: "
            f"{'GPU ' + ', '.join(gpus) if gpus else 'no GPU'}, computing on {self.device}, "
            f"{self.threads} threads"
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
        self.model = load_model(self.config, torch.device("cpu"), precision, self.pool.threads)
        self.recipe = self.model.recipe
        self.head = self.model.classifier.head.kind
        self.runtime_env = runtime_env(ray.get_runtime_context().runtime_env)

    @cached_property
    def canary(self) -> Canary | None:
        """What the driver makes of the built-in pictures, with the CPU."""
        return try_pictures(self.config, self.model, self.pool.threads)

    @sigterm_as_elsewhere()
    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Hand out the shards in their order."""
        return _Run(self, shards, observer).to_the_end()

    @sigterm_as_elsewhere()
    def _workers_compute_on_gpus(self, config: Config) -> bool:
        """Ask a worker: a cluster may count GPUs that torch cannot use.

        Raises:
            RequestError: no GPU came free for ten minutes.
        """
        if config.model.precision != "auto" or not self.pool.gpus_per_worker:
            return False
        ask = ray.remote(num_gpus=self.pool.gpus_per_worker, num_cpus=0)(torch.cuda.is_available)
        answer = ask.remote()
        deadline = time.monotonic() + GPU_SECONDS
        while not ray.wait([answer], timeout=PATIENCE_SECONDS)[0]:
            if time.monotonic() > deadline:
                ray.cancel(answer)
                raise RequestError(
                    f"model.precision: auto asks a worker what its GPU computes, and no GPU was "
                    f"free for {GPU_SECONDS:g} s; set bfloat16 or float32, which needs no asking, "
                    f"or wait until the cluster has a free GPU"
                )
            LOG.warning(
                "model.precision is auto: waiting for a free GPU, to ask it what it computes; "
                "the cluster has %s free",
                ray.available_resources(),
            )
        return bool(ray.get(answer))


class _Run:
    """One pass over a list of shards."""

    def __init__(self, engine: RayEngine, shards: tuple[Shard, ...], observer: Observer) -> None:
        self.engine = engine
        self.settings = engine.config.engine
        self.observer = observer
        images = about_images(shards)
        self.images_each = None if images is None else images // max(1, engine.pool.workers)
        self.work = WorkList(shards, self.settings.max_attempts, observer)
        self.failed_starts = 0
        self.last_start_error = ""
        self.actors = [self._start() for _ in range(min(engine.pool.workers, len(shards)))]
        self.all_there = time.monotonic()
        self.patience = PATIENCE_SECONDS

    def to_the_end(self) -> list[Outcome]:
        try:
            while self.work.unfinished and self.actors:
                self._wait_for_answers()
                self._replace_stalled()
                self._say_who_is_missing()
            self.work.give_up_the_rest(f"no worker could be started: {self.last_start_error}")
        finally:
            for actor in self.actors:
                ray.kill(actor.handle)
        return self.work.outcomes

    def _start(self) -> Actor:
        engine, pool = self.engine, self.engine.pool
        worker = ray.remote(ShardWorker).options(
            num_gpus=pool.gpus_per_worker,
            num_cpus=pool.cpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
            # One thread waits for each shard; one more, so that progress can be asked for.
            max_concurrency=SHARDS_IN_WORK + 1,
            runtime_env=engine.runtime_env,
        )
        handle = worker.remote(
            engine.config,
            engine.recipe.digest,
            engine.head,
            pool.threads,
            engine.canary,
            engine.retried,
            self.images_each,
        )
        ready = handle.describe.remote()
        return Actor(handle, {ready: None}, ready)

    def _wait_for_answers(self) -> None:
        for actor in self.actors:
            actor.ask(POLL_SECONDS)
        calls = [call for actor in self.actors for call in actor.calls]
        questions = [actor.asked for actor in self.actors if actor.asked is not None]
        ray.wait(calls, timeout=POLL_SECONDS)
        everything = [*calls, *questions]
        answered, _ = ray.wait(everything, num_returns=len(everything), timeout=0)
        for actor in list(self.actors):
            if actor.asked in answered:
                self._take_answer(actor)
            for call in list(actor.calls):
                # One that was lost with its actor was dealt with at the actor's first.
                if call in answered and actor in self.actors:
                    self._finish_call(actor, call)

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
            self._replace(actor, f"the worker died: {one_line(error)}")
            return
        else:
            actor.end(call)
            if shard is None:
                self.failed_starts = 0
                self.observer.note(f"worker ready: {result}")
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
            limit = f"it has engine.start_seconds, {self.settings.start_seconds:g} s, to do so"
            self.observer.note(f"a worker did not start: {reason}; {limit}")
        else:
            self.work.lost(actor.shards, reason)
        if self.failed_starts < self.settings.max_attempts and (
            len(self.actors) < self.work.unfinished
        ):
            self.actors.append(self._start())

    def _say_who_is_missing(self) -> None:
        """At the start, and when nodes are gone: Ray waits for new ones without a word."""
        now = time.monotonic()
        missing = sum(actor.starting for actor in self.actors)
        if not missing:
            self.all_there, self.patience = now, PATIENCE_SECONDS
        elif now - self.all_there > self.patience:
            self.observer.note(
                f"still waiting for {missing} workers: each asks for "
                f"{self.engine.pool.cpus_per_worker:g} CPUs and "
                f"{self.engine.pool.gpus_per_worker:g} GPUs; the cluster has "
                f"{ray.available_resources()} free"
            )
            # Less and less often: the others go on.
            self.all_there, self.patience = now, 2 * self.patience
