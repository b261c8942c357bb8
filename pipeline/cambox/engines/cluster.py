"""Run the shards on a pool of Ray actors: all that is asked of Ray is asked here.

Only shards, settings and counters cross between processes.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.metrics import Counter
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cambox.canary.rows import Canary
from cambox.config import Config
from cambox.console import one_line
from cambox.engines.actor import Worker
from cambox.engines.calls import Actor
from cambox.engines.driver import ActorCodeError, Driver, LostActorError
from cambox.engines.local import SHARDS_IN_WORK
from cambox.engines.paths import absolute, runtime_env
from cambox.engines.sigterm import sigterm_as_elsewhere
from cambox.engines.sizing import Place, Pool, size_pool
from cambox.engines.waiting import PATIENCE_SECONDS, cluster_in_words
from cambox.engines.worker import load_model, resolve_precision, try_pictures
from cambox.engines.worklist import Observer, Outcome
from cambox.errors import UnavailableError
from cambox.shard_report import ShardReport
from cambox.sources.shards import Shard, about_images

LOG = logging.getLogger(__name__)


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
        # Loaded here too: a wrong request is refused before any actor starts, and what the head is,
        # and where its cells look, is decided once, as two devices may differ at the border.
        self.threads = self.pool.spare.threads
        self.model = load_model(self.config, torch.device("cpu"), precision, self.threads)
        self.recipe = self.model.recipe
        self.head = self.model.classifier.head.kind
        offset = {"offset": self.model.classifier.offset}
        self.config = self.config.model_copy(
            update={"cam": self.config.cam.model_copy(update=offset)}
        )
        self.runtime_env = runtime_env(ray.get_runtime_context().runtime_env)

    @cached_property
    def canary(self) -> Canary | None:
        """What the driver makes of the built-in pictures, with the CPU."""
        return try_pictures(self.config, self.model, self.threads)

    @sigterm_as_elsewhere()
    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Hand out the shards in their order."""
        images = about_images(shards)
        images_each = None if images is None else images // max(1, len(self.pool.places))
        cluster = _RayCluster(self, images_each)
        settings = self.config.engine
        return Driver(cluster, self.pool, settings, self.canary, shards, observer).to_the_end()

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


class _RayCluster:
    """Actors of Ray, for the driver.

    Args:
        images_each: that a worker will annotate, about; None: not known.
    """

    def __init__(self, engine: RayEngine, images_each: int | None) -> None:
        self.engine = engine
        self.images_each = images_each

    def start(self, place: Place) -> Actor:
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
            # Ray may show a GPU to who asks for none.
            place.size.gpus or 1.0,
        )
        placing, ready = handle.where.remote(), handle.load.remote()
        return Actor(handle, place, {ready: None}, ready, placing, time.monotonic())

    def end(self, actor: Actor) -> None:
        ray.kill(actor.handle)

    def answered(self, calls: list[Any], others: list[Any], seconds: float) -> Collection[Any]:
        ray.wait(calls, timeout=seconds)
        everything = [*calls, *others]
        return list(ray.wait(everything, num_returns=len(everything), timeout=0)[0])

    def answer(self, call: Any) -> Any:
        try:
            return ray.get(call)
        except RayTaskError as error:
            # The actor lives, and its code raised. An error of its constructor is not of this kind.
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise ActorCodeError(cause) from error
        except RayError as error:
            # Death has many names: the actor's, its node's, out of memory, a failed environment.
            raise LostActorError(one_line(error)) from error

    def nodes(self) -> Sequence[Mapping[str, Any]]:
        return list(ray.nodes())

    def free(self) -> Mapping[str, float]:
        return dict(ray.available_resources())
