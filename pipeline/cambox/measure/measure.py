"""A measurement of one worker on this machine, with the shards of a configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from cambox.config import Config, EngineSettings
from cambox.console import say, saying_notes
from cambox.engines.local import LocalEngine
from cambox.engines.sizing import size_pool
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
    output of the configuration is neither read nor written. Where several workers would share a GPU
    it is one of them, on its share of the CPUs, with its share of what the GPU can do.

    Raises:
        RequestError: the model cannot serve, or no image of the shards can be annotated.
    """
    chosen = some_shards(shards)
    reading = read_some(chosen, config.input, seconds * SHARES["storage"], tell)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    share = share_of_machine(config.engine, gpus, usable_cpus())
    with (
        TemporaryDirectory(prefix="cambox-bench-", ignore_cleanup_errors=True) as folder,
        _on_cpus(share.threads if gpus else usable_cpus()),
    ):
        say(console, f"loading model {config.model.name}")
        with saying_notes(console):
            engine = LocalEngine(_as_one_worker(config, folder, share.threads))
        # What would pay in a run over all of the shards is done here, too.
        images = about_images(shards)
        annotator = make_annotator(
            *(engine.config, engine.model, engine.threads),
            images=images,
            gpu_share=1 / share.on_a_gpu,
        )
        with closing(annotator):
            decode, ready = parts.decode(
                annotator, reading.samples, seconds * SHARES["decode"], tell
            )
            network = parts.network(annotator, ready, seconds * SHARES["network"], tell)
            network /= share.on_a_gpu
            boxes = parts.boxes(annotator, ready, seconds * SHARES["boxes"], tell)
            whole, stages = end_to_end(annotator, chosen, seconds * SHARES["end to end"], tell)
    rates = Rates(
        storage=reading.count / reading.seconds,
        decode=decode,
        network=network,
        boxes=boxes,
        # Here it had the others' share of the GPU as well.
        end_to_end=min(whole, network) if share.on_a_gpu > 1 else whole,
        megabytes=reading.bytes_read / reading.seconds / 1e6,
        stage_milliseconds=stages,
    )
    classifier = engine.model.classifier
    worker = _worker(engine.config, classifier, annotator.batch_size, share)
    return Measured(worker, rates, len(chosen), len(reading.samples))


@dataclass(frozen=True)
class Share:
    """What one worker has of a machine.

    Attributes:
        threads: that it decodes and computes with, a CPU each.
        on_a_gpu: workers that share a GPU; 1 without any.
        here: workers on the machine.
    """

    threads: int
    on_a_gpu: int
    here: int


def share_of_machine(engine: EngineSettings, gpus: int, cpus: int) -> Share:
    """As a cluster's pool would divide a machine of so many GPUs and CPUs.

    Without a GPU it is all of the machine, as more workers are no quicker there.

    >>> share_of_machine(EngineSettings(), gpus=1, cpus=16)
    Share(threads=2, on_a_gpu=8, here=8)
    >>> share_of_machine(EngineSettings(gpus_per_worker=0.5), gpus=2, cpus=16)
    Share(threads=4, on_a_gpu=2, here=4)
    >>> share_of_machine(EngineSettings(workers=1), gpus=1, cpus=16)
    Share(threads=16, on_a_gpu=1, here=1)
    >>> share_of_machine(EngineSettings(), gpus=0, cpus=16)
    Share(threads=16, on_a_gpu=1, here=1)
    """
    if not gpus:
        return Share(cpus if engine.cpus_per_worker == "auto" else engine.cpus_per_worker, 1, 1)
    machine = {"NodeID": "", "Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}}
    size = size_pool(engine, [machine], {"CPU": float(cpus)}).places[0].size
    on_a_gpu = int(1 / size.gpus) if 0 < size.gpus < 1 else 1
    return Share(size.threads, on_a_gpu, gpus * on_a_gpu)


@contextmanager
def _on_cpus(count: int) -> Iterator[None]:
    """Threads that are begun within it run on no more than so many CPUs."""
    if count >= usable_cpus() or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _as_one_worker(config: Config, folder: str, threads: int) -> Config:
    """In this process, with so many threads, into a folder of its own."""
    engine = config.engine.model_copy(update={"name": "local", "cpus_per_worker": threads})
    output = config.output.model_copy(update={"uri": folder, "storage_options": {}})
    return config.model_copy(update={"engine": engine, "output": output})


def _worker(config: Config, classifier: Classifier, batch_size: int, share: Share) -> Worker:
    device = classifier.device
    on_gpu = device.type == "cuda"
    return Worker(
        network=config.model.name,
        device=torch.cuda.get_device_name(device) if on_gpu else device.type,
        on_gpu=on_gpu,
        threads=share.threads,
        precision=classifier.precision,
        batch_size=batch_size,
        batch_size_is_set=config.engine.batch_size != "auto",
        decoder="gpu" if config.input.decoder == "gpu" else "cpu",
        here=share.here,
        on_a_gpu=share.on_a_gpu,
    )
