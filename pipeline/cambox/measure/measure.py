"""A measurement of one worker on this machine, with the shards of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from cambox.config import Config
from cambox.console import say, saying_notes
from cambox.engines.local import LocalEngine
from cambox.engines.worker import make_annotator
from cambox.measure import parts
from cambox.measure.clock import SHARES, Tell
from cambox.measure.figures import Rates, Worker
from cambox.measure.samples import read_some, some_shards
from cambox.measure.whole import end_to_end
from cambox.models.classifier import Classifier
from cambox.sources.shards import Shard, about_images
from cambox.threads import usable_cpus


@dataclass(frozen=True)
class Measured:
    """What one worker came to; ``images`` is how many different ones it was measured with."""

    worker: Worker
    rates: Rates
    shards: int
    images: int


def measure(
    config: Config, shards: Sequence[Shard], seconds: float, console: Console, tell: Tell
) -> Measured:
    """Measure each part of the work alone, and all of it, for so many seconds together.

    Start-up is not counted. What is published goes to a temporary folder that is removed; the
    output of the configuration is neither read nor written.

    Raises:
        RequestError: the model cannot serve, or no image of the shards can be annotated.
    """
    chosen = some_shards(shards)
    reading = read_some(chosen, config.input, seconds * SHARES["storage"], tell)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with TemporaryDirectory(prefix="cambox-bench-", ignore_cleanup_errors=True) as folder:
        say(console, f"loading model {config.model.name}")
        with saying_notes(console):
            engine = LocalEngine(_as_one_worker(config, folder, gpus))
        # What would pay in a run over all of the shards is done here, too.
        images = about_images(shards)
        annotator = make_annotator(engine.config, engine.model, engine.threads, images=images)
        with closing(annotator):
            decode, ready = parts.decode(
                annotator, reading.samples, seconds * SHARES["decode"], tell
            )
            network = parts.network(annotator, ready, seconds * SHARES["network"], tell)
            boxes = parts.boxes(annotator, ready, seconds * SHARES["boxes"], tell)
            whole, stages = end_to_end(annotator, chosen, seconds * SHARES["end to end"], tell)
    rates = Rates(
        storage=reading.count / reading.seconds,
        decode=decode,
        network=network,
        boxes=boxes,
        end_to_end=whole,
        megabytes=reading.bytes_read / reading.seconds / 1e6,
        stage_milliseconds=stages,
    )
    classifier = engine.model.classifier
    worker = _worker(engine.config, classifier, annotator.batch_size, engine.threads, gpus)
    return Measured(worker, rates, len(chosen), len(reading.samples))


def _as_one_worker(config: Config, folder: str, gpus: int) -> Config:
    """In this process, with its share of the CPUs, into a folder of its own."""
    engine = config.engine.model_copy(update={"name": "local"})
    if engine.cpus_per_worker == "auto":
        threads = max(1, usable_cpus() // max(1, gpus))
        engine = engine.model_copy(update={"cpus_per_worker": threads})
    output = config.output.model_copy(update={"uri": folder, "storage_options": {}})
    return config.model_copy(update={"engine": engine, "output": output})


def _worker(
    config: Config, classifier: Classifier, batch_size: int, threads: int, gpus: int
) -> Worker:
    device = classifier.device
    on_gpu = device.type == "cuda"
    return Worker(
        network=config.model.name,
        device=torch.cuda.get_device_name(device) if on_gpu else device.type,
        on_gpu=on_gpu,
        threads=threads,
        precision=classifier.precision,
        batch_size=batch_size,
        batch_size_is_set=config.engine.batch_size != "auto",
        decoder="gpu" if config.input.decoder == "gpu" else "cpu",
        here=max(1, gpus),
    )
