"""The network beside threads that decode: what the interpreter's lock costs it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from bench.gpu.files import DRY, PHOTOS
from bench.gpu.limits import BATCH, MAX_PIXELS
from bench.gpu.step import MOBILENET, RESNET, SMALL, Step, median_seconds, on_gpu
from cambox.config import ModelSettings
from cambox.engines.worker import local_device
from cambox.models.load import load_classifier
from cambox.models.ways import Wanted, prepared
from cambox.sources.decode import decode_image
from cambox.sources.load import squash
from cambox.threads import usable_cpus


def under_load() -> None:
    """The network while all CPUs decode in threads, who share the interpreter's lock with it.

    Each operation of an eager network gives the lock away and waits to have it again; a graph is
    one operation.
    """
    step = Step("under_load")
    for name in (SMALL,) if DRY else (RESNET, MOBILENET):
        step.part(name, _under_load, name)


def _under_load(name: str) -> dict[str, float]:
    device = local_device()
    classifier = load_classifier(ModelSettings(name=name), device, "bfloat16")
    size = classifier.preprocessing
    pixels = np.random.default_rng(0).integers(
        0, 256, (BATCH, size.height, size.width, 3), dtype=np.uint8
    )
    wanted: tuple[Wanted, ...] = ("eager", "graph", "inductor") if on_gpu() else ("eager",)
    # One that was taken back is eager again, and the log says why.
    lanes = {way: prepared([classifier], way, BATCH)[0] for way in wanted}
    files = [path.read_bytes() for path in sorted(PHOTOS.iterdir())]
    found: dict[str, float] = {}
    for threads in (0, usable_cpus() // 4, usable_cpus() - 1):
        for way, lane in lanes.items():
            with _decoding(files, threads) as decoded:
                rate = BATCH / median_seconds(partial(lane.scores, pixels))
            found[f"{way}, {threads} threads decode"] = round(rate, 1)
            found[f"decoded beside {way} by {threads} threads"] = round(decoded(), 1)
    return found


@contextmanager
def _decoding(files: list[bytes], threads: int) -> Iterator[Callable[[], float]]:
    """Threads that decode and shrink all the time; gives images a second, once they have ended."""
    stop, counts, start = threading.Event(), [0] * threads, time.perf_counter()

    def decode(thread: int) -> None:
        torch.set_num_threads(1)
        for data in itertools.cycle(files):
            squash(decode_image(data, MAX_PIXELS), 224, 224)
            counts[thread] += 1
            if stop.is_set():
                return

    workers = [threading.Thread(target=decode, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield lambda: sum(counts) / seconds
    finally:
        stop.set()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - start
