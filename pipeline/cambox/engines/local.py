"""Run the shards in this process."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing

from cambox.annotator import ShardReport
from cambox.config import Config
from cambox.engines.prefetch import SHARDS_IN_WORK, Prefetch
from cambox.engines.worker import (
    load_model,
    local_device,
    make_annotator,
    nothing_loaded_is_garbage,
    resolve_precision,
)
from cambox.engines.worklist import Observer, Outcome, WorkList
from cambox.output.footer import Recipe
from cambox.sources.shards import Shard
from cambox.threads import usable_cpus


class LocalEngine:
    """One worker in this process, on its GPU where it has one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        device = local_device()
        threads = config.engine.cpus_per_worker
        self.threads = usable_cpus() if threads == "auto" else threads
        precision = resolve_precision(config, device.type == "cuda")
        self.model = load_model(config, device, precision, self.threads)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.model.recipe

    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Annotate the shards; one that the storage failed for goes back to the end of the line."""
        work = WorkList(shards, self.config.engine.max_attempts, observer)
        annotator = make_annotator(self.config, self.model, self.threads)
        prefetch = Prefetch(annotator, observer.advance)
        with closing(prefetch), nothing_loaded_is_garbage():
            device = self.model.classifier.device
            observer.note(f"one worker on {device}, {self.threads} threads")
            in_work: dict[Future[ShardReport], Shard] = {}
            while work.unfinished:
                shard = work.next() if len(in_work) < SHARDS_IN_WORK else None
                if shard is not None:
                    in_work[prefetch.begin(shard)] = shard
                timeout = None if shard is None else 0
                for report in wait(in_work, timeout, FIRST_COMPLETED).done:
                    ended = in_work.pop(report)
                    prefetch.end(ended)
                    error = report.exception()
                    if error is None:
                        work.published(report.result())
                    elif isinstance(error, Exception):
                        work.failed(ended, error)
                    else:
                        raise error
        return work.outcomes
