"""How many images a GPU takes at once: found by timing, remembered for the next run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import platformdirs
import torch

from cambox.models.classifier import Classifier

SMALLEST, LARGEST = 16, 512
# Less of a gain is within what one timing differs from the next, and costs memory.
WORTH = 1.03
TIMINGS = 3


def fastest_batch_size(seconds_of: Callable[[int], float]) -> int:
    """Double the batch for as long as images get quicker by it.

    Args:
        seconds_of: what a batch of so many images takes. Where it raises that memory ran out, the
            size before is taken.
    """
    best, best_rate, size = SMALLEST, 0.0, SMALLEST
    while size <= LARGEST:
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


def gpu_batch_size(classifier: Classifier) -> int:
    """The fastest batch size of a classifier on its GPU, from an earlier run where there was one.

    Timing takes a few seconds. Workers of one machine find what the first of them remembered, so
    that they compute alike.
    """
    size = classifier.preprocessing
    what = (
        f"{classifier.weights_digest} {size.height}x{size.width} {classifier.precision} "
        f"{torch.cuda.get_device_name(classifier.device)} torch {torch.__version__}"
    )
    return remembered(what, lambda: fastest_batch_size(lambda count: _seconds(classifier, count)))


def remembered(what: str, find: Callable[[], int], folder: Path | None = None) -> int:
    """A number that is found once for each ``what``, and kept in the user's cache.

    Args:
        folder: of the cache; None: the one that the system has for it.
    """
    folder = folder or platformdirs.user_cache_path("cambox") / "batch-sizes"
    path = folder / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"
    # What cannot be read is found again, and a cache that cannot be written is none.
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(path.read_text())["batch_size"])
    found = find()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as file:
            json.dump({"what": what, "batch_size": found}, file)
        os.replace(file.name, path)  # noqa: PTH105 (the name is a string)
    return found


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
