"""How many images go at once: on a GPU timed, and remembered for other workers and runs."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import platformdirs
import torch
from filelock import FileLock

from cambox.config_cam import ZoomSettings
from cambox.console import one_line
from cambox.models.classifier import Classifier
from cambox.output.whole import publish_bytes

LOG = logging.getLogger(__name__)

# What a batch leaves behind stays in the cache then, and its tensors are small enough for malloc
# to keep: in batches of 16 a third of the time went into fresh pages.
BATCH_SIZE_ON_CPU = 4

SMALLEST, LARGEST = 16, 512
# Of workers that share a GPU all have their batches in its memory at once; together they keep it
# busy with smaller ones.
LARGEST_OF_SEVERAL = 128
# Less of a gain is within what one timing differs from the next, and costs memory.
WORTH = 1.03
TIMINGS = 3
# So long a worker waits for another one's timing; that one may hang.
LOCK_SECONDS = 120.0


def automatic_batch_size(
    zoom: ZoomSettings | None, classifier: Classifier, gpu_share: float = 1.0
) -> int:
    """What ``engine.batch_size: auto`` is on the device of a classifier.

    Args:
        gpu_share: of a GPU that a worker has; less than 1 where others are on it, too.
    """
    if classifier.device.type != "cuda":
        return BATCH_SIZE_ON_CPU
    size = gpu_batch_size(classifier, gpu_share)
    if zoom is None:
        return size
    # What was timed is smaller than the largest look.
    timed = classifier.preprocessing.height * classifier.preprocessing.width
    return max(1, size * timed // max(zoom.sides) ** 2)


def gpu_batch_size(classifier: Classifier, gpu_share: float = 1.0) -> int:
    """The fastest batch size of a classifier on its GPU, from an earlier run where there was one.

    Timing takes a few seconds. Of the workers of one machine the first one does it and the others
    wait for what it finds, so that they compute alike.
    """
    most = LARGEST_OF_SEVERAL if gpu_share < 1 else LARGEST
    # What fits into one share of the memory may not into a smaller one.
    return remembered(
        f"{timed_of(classifier)}, at most {most} on {gpu_share:.4f} of it",
        lambda: fastest_batch_size(lambda count: _seconds(classifier, count), most),
    )


def timed_of(classifier: Classifier) -> str:
    """All that the time of a batch depends on."""
    size = classifier.preprocessing
    middle = ",".join(layer.name for layer in classifier.middle)
    return (
        f"{classifier.weights_digest} {size.height}x{size.width} classes at "
        f"{classifier.class_size} middle layers {middle} {classifier.precision} "
        f"{torch.cuda.get_device_name(classifier.device)} torch {torch.__version__}"
    )


def fastest_batch_size(seconds_of: Callable[[int], float], most: int = LARGEST) -> int:
    """Double the batch for as long as images get quicker by it, up to ``most``.

    Args:
        seconds_of: what a batch of so many images takes. Where it raises that memory ran out, the
            size before is taken.
    """
    best, best_rate, size = SMALLEST, 0.0, SMALLEST
    while size <= most:
        try:
            rate = size / seconds_of(size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if rate < WORTH * best_rate:
            break
        best, best_rate = size, rate
        size *= 2
    return best


def remembered(what: str, find: Callable[[], int], folder: Path | None = None) -> int:
    """A number that is found once for each ``what``, and kept in the user's cache.

    Processes that ask at once wait for the first of them; not for one that died, and for one that
    hangs no longer than two minutes. Where nothing can be locked or kept, each process finds it for
    itself, and a warning says so.

    Args:
        folder: of the cache; None: the one that the system has for it.
    """
    folder = folder or platformdirs.user_cache_path("cambox") / "batch-sizes"
    path = folder / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"
    if (known := _read(path)) is not None:
        return known
    lock = FileLock(path.with_suffix(".lock"))
    with _warning_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_SECONDS)
    try:
        if (known := _read(path)) is not None:
            return known
        found = find()
        with _warning_of(folder):
            publish_bytes(str(path), json.dumps({"what": what, "batch_size": found}).encode())
        return found
    finally:
        lock.release()


@contextmanager
def _warning_of(folder: Path) -> Iterator[None]:
    # Some file systems can lock nothing, and a worker that hangs keeps its lock.
    try:
        yield
    except (OSError, NotImplementedError) as error:
        LOG.warning(
            "engine.batch_size: %s cannot be locked or written (%s), so a worker may time its "
            "batches again and come to another size; mend it, or set a number",
            folder,
            one_line(error),
        )


def _read(path: Path) -> int | None:
    # What cannot be read is found again.
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(path.read_text())["batch_size"])
    return None


def _seconds(classifier: Classifier, count: int) -> float:
    size = classifier.preprocessing
    images = np.zeros((count, size.height, size.width, 3), dtype=np.uint8)
    taken = []
    for _ in range(1 + TIMINGS):  # the first picks the kernels
        start = time.perf_counter()
        classifier.scores(images)
        torch.cuda.synchronize(classifier.device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
