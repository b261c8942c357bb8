"""Run the shards on a pool of Ray actors, one shard in flight on each.

The driver keeps the counts: an actor that dies fails its one shard, which is tried again on a
fresh actor. Only shards, settings and counters cross between processes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.metrics import Counter

from pipeline.annotate import Progress, ShardReport
from pipeline.config import Config
from pipeline.engines.absolute import absolute
from pipeline.engines.outcome import Observer, Outcome
from pipeline.engines.sizing import Pool, size_pool
from pipeline.engines.worker import (
    WorkerDescription,
    load_model,
    local_device,
    make_annotator,
    resolve_precision,
)
from pipeline.engines.worklist import WorkerLostError, WorkList
from pipeline.recipe import Recipe
from pipeline.sources.shards import Shard

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 30.0


class ShardWorker:
    """The actor: a classifier on its own device, and how far it is in its shard."""

    def __init__(self, config: Config, recipe_digest: str, threads: int) -> None:
        device = local_device()
        precision = resolve_precision(config, device.type == "cuda")
        model = load_model(config, device, precision, threads)
        if model.recipe.digest != recipe_digest:
            raise RuntimeError(
                f"this worker's recipe {model.recipe.folder} differs from the driver's "
                f"{recipe_digest[:16]}: its files or library versions are not the driver's"
            )
        self.threads = threads
        self.device = device
        self.annotator = make_annotator(config, model, threads)
        self.metrics = _Metrics()
        self.bytes_read = 0
        self.samples = 0

    def describe(self) -> WorkerDescription:
        """Where this actor runs."""
        context = ray.get_runtime_context()
        return WorkerDescription(
            node=context.get_node_id(),
            process=os.getpid(),
            gpus=tuple(context.get_accelerator_ids().get("GPU", ())),
            device=str(self.device),
            threads=self.threads,
        )

    def annotate(self, shard: Shard) -> ShardReport:
        """Annotate one shard and publish its file."""
        report = self.annotator.annotate(shard, self._advance)
        self.metrics.count(report)
        return report

    def progress(self) -> Progress:
        """What was read and annotated since the actor started."""
        return Progress(self.bytes_read, self.samples)

    def _advance(self, progress: Progress) -> None:
        self.bytes_read += progress.bytes_read
        self.samples += progress.samples


class _Metrics:
    """What a worker's Prometheus endpoint tells, under names that Ray prefixes with ``ray_``."""

    def __init__(self) -> None:
        self.samples = Counter("cambox_samples", "Rows published.", ("status",))
        self.boxes = Counter("cambox_boxes", "Boxes published.")
        self.no_box = Counter("cambox_maps_without_box", "Maps that gave no box.", ("reason",))
        self.seconds = Counter("cambox_stage_seconds", "Time by stage.", ("stage",))

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


@dataclass
class _Actor:
    """The driver's view of an actor."""

    handle: Any
    call: Any  # what the actor is doing: describing itself (shard is None) or annotating
    shard: Shard | None = None
    asked: Any = None  # an unanswered question for its progress
    seen: Progress = field(default_factory=Progress)
    moved: float = 0.0  # when it last made progress


class RayEngine:
    """A pool of actors on the cluster of ``RAY_ADDRESS``, or on a new one on this machine."""

    def __init__(self, config: Config) -> None:
        config = absolute(config)
        if not ray.is_initialized():
            # Bare, so that it also works inside a submitted job, which has settings of its own.
            ray.init(log_to_driver=False, logging_level="warning")
        self.pool: Pool = size_pool(config.engine, ray.nodes(), ray.available_resources())
        precision = resolve_precision(config, self._workers_compute_on_gpus(config))
        self.config = config.model_copy(
            update={"model": config.model.model_copy(update={"precision": precision})}
        )
        # Loaded here too: a wrong request is refused before any actor starts.
        self._recipe = load_model(
            self.config, torch.device("cpu"), precision, self.pool.threads
        ).recipe

    @property
    def recipe(self) -> Recipe:
        """The recipe that all of its workers share."""
        return self._recipe

    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Hand out the shards in their order, one to each actor at a time."""
        run = _Run(self, shards, observer)
        try:
            return run.to_the_end()
        finally:
            run.stop()

    def _workers_compute_on_gpus(self, config: Config) -> bool:
        """Ask a worker: a cluster may count GPUs that torch cannot use."""
        if config.model.precision != "auto" or not self.pool.gpus_per_worker:
            return False
        ask = ray.remote(num_gpus=self.pool.gpus_per_worker, num_cpus=0)(torch.cuda.is_available)
        answer: bool = ray.get(ask.remote())
        return answer


class _Run:
    """One pass over a list of shards."""

    def __init__(self, engine: RayEngine, shards: tuple[Shard, ...], observer: Observer) -> None:
        self.engine = engine
        self.settings = engine.config.engine
        self.observer = observer
        self.work = WorkList(shards, self.settings.max_attempts, observer)
        self.failed_starts = 0
        self.last_start_error = ""
        self.actors = [self._start() for _ in range(min(engine.pool.workers, len(shards)))]
        self.nobody_since = time.monotonic()

    def to_the_end(self) -> list[Outcome]:
        while self.work.unfinished:
            if not self.actors:
                self.work.give_up_the_rest(f"no worker could be started: {self.last_start_error}")
                break
            self._wait_for_answers()
            self._replace_stalled()
            self._complain_while_nobody_works()
        return self.work.outcomes

    def stop(self) -> None:
        for actor in self.actors:
            ray.kill(actor.handle)

    def _start(self) -> _Actor:
        pool = self.engine.pool
        options = {
            "num_gpus": pool.gpus_per_worker,
            "num_cpus": pool.cpus_per_worker,
            "max_restarts": 0,
            "max_task_retries": 0,
            # One thread more than the shard's, so that progress can be asked for meanwhile.
            "max_concurrency": 2,
        }
        handle = (
            ray.remote(ShardWorker)
            .options(**options)
            .remote(self.engine.config, self.engine.recipe.digest, pool.threads)
        )
        return _Actor(handle, call=handle.describe.remote())

    def _wait_for_answers(self) -> None:
        for actor in self.actors:
            if actor.shard is not None and actor.asked is None:
                actor.asked = actor.handle.progress.remote()
        calls = [actor.call for actor in self.actors]
        questions = [actor.asked for actor in self.actors if actor.asked is not None]
        ray.wait(calls, timeout=POLL_SECONDS)
        everything = [*calls, *questions]
        answered, _ = ray.wait(everything, num_returns=len(everything), timeout=0)
        for actor in list(self.actors):
            if actor.asked in answered:
                self._note_progress(actor)
            if actor.call in answered:
                self._finish_call(actor)

    def _note_progress(self, actor: _Actor) -> None:
        asked, actor.asked = actor.asked, None
        try:
            now: Progress = ray.get(asked)
        except RayError:
            return  # The actor's call tells the same, and is what counts.
        if now != actor.seen:
            actor.moved = time.monotonic()
        self.observer.advance(
            Progress(now.bytes_read - actor.seen.bytes_read, now.samples - actor.seen.samples)
        )
        actor.seen = now

    def _finish_call(self, actor: _Actor) -> None:
        shard, call = actor.shard, actor.call
        try:
            result = ray.get(call)
        except RayTaskError as error:
            # The actor lives, and its code raised. An error of its constructor is not of this kind.
            cause = error.cause if isinstance(error.cause, Exception) else error
            if shard is None:
                self._replace(actor, f"the worker failed: {_one_line(cause)}")
                return
            self.work.failed(shard, cause)
        except RayError as error:
            # Death has many names: the actor's, its node's, out of memory, a failed environment.
            self._replace(actor, f"the worker died: {_one_line(error)}")
            return
        else:
            if shard is None:
                self.failed_starts = 0
                self.observer.note(f"worker ready: {result}")
            else:
                actor.asked = actor.handle.progress.remote()
                self._note_progress(actor)
                self.work.published(result)
        self._next_shard(actor)

    def _next_shard(self, actor: _Actor) -> None:
        actor.shard = self.work.next()
        if actor.shard is None:
            self.actors.remove(actor)
            # An idle actor gives its GPU back.
            ray.kill(actor.handle)
        else:
            actor.moved = time.monotonic()
            actor.call = actor.handle.annotate.remote(actor.shard)

    def _replace_stalled(self) -> None:
        """A hung worker differs from a slow one by its progress, so not by the total time."""
        limit = self.settings.stall_seconds
        for actor in list(self.actors):
            if actor.shard is not None and time.monotonic() - actor.moved > limit:
                self._replace(actor, f"no progress for {limit:g} s; the worker was replaced")

    def _replace(self, actor: _Actor, reason: str) -> None:
        self.actors.remove(actor)
        # One that only cannot be reached may live, and would keep its GPU from the next.
        ray.kill(actor.handle)
        if actor.shard is None:
            self.failed_starts += 1
            self.last_start_error = reason
            self.observer.note(f"a worker did not start: {reason}")
        else:
            self.work.failed(actor.shard, WorkerLostError(reason))
        if self.failed_starts < self.settings.max_attempts and (
            len(self.actors) < self.work.unfinished
        ):
            self.actors.append(self._start())

    def _complain_while_nobody_works(self) -> None:
        """At the start, and when all nodes are gone: Ray waits for new ones without a word."""
        now = time.monotonic()
        if any(actor.shard is not None for actor in self.actors):
            self.nobody_since = now
        elif now - self.nobody_since > PATIENCE_SECONDS:
            self.observer.note(
                f"still waiting for a worker: each asks for {self.engine.pool.cpus_per_worker:g} "
                f"CPUs and {self.engine.pool.gpus_per_worker:g} GPUs; the cluster has "
                f"{ray.available_resources()} free"
            )
            self.nobody_since = now


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
