"""Run the shards in this process, one after the other."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.engines.outcome import Observer, Outcome
from pipeline.engines.worker import (
    load_model,
    local_device,
    local_threads,
    make_annotator,
    resolve_precision,
)
from pipeline.engines.worklist import WorkList
from pipeline.recipe import Recipe
from pipeline.sources.shards import Shard


class LocalEngine:
    """One worker in this process, on its GPU where it has one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        device = local_device()
        threads = config.engine.cpus_per_worker
        self.threads = local_threads() if threads == "auto" else threads
        precision = resolve_precision(config, device.type == "cuda")
        self.model = load_model(config, device, precision, self.threads)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.model.recipe

    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Annotate the shards; one that the storage failed for goes back to the end of the line."""
        work = WorkList(shards, self.config.engine.max_attempts, observer)
        with make_annotator(self.config, self.model, self.threads) as annotator:
            device = self.model.classifier.device
            observer.note(f"one worker on {device}, {self.threads} threads")
            while (shard := work.next()) is not None:
                try:
                    report = annotator.annotate(shard, observer.advance)
                except Exception as error:  # noqa: BLE001  one bad shard must not end the others
                    work.failed(shard, error)
                else:
                    work.published(report)
        return work.outcomes
