"""What makes a process a worker: its device and classifier, its batch size, its annotator."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import platformdirs
import torch
from filelock import FileLock

from cambox.annotator import Annotator
from cambox.cams.pyramid import COMPARED_LAYERS
from cambox.canary.rows import FILES, Canary
from cambox.canary.trial import tried
from cambox.config import Config
from cambox.config_cam import ZoomSettings
from cambox.console import one_line
from cambox.errors import RequestError
from cambox.maps import require_fitting
from cambox.models.aspect import keeping_aspect
from cambox.models.classifier import Classifier, Precision
from cambox.models.groups import read_groups
from cambox.models.heads import HeadKind
from cambox.models.last_layer import with_last_layer
from cambox.models.load import load_classifier, with_class_size
from cambox.models.middle import with_middle_layers
from cambox.models.ways import prepared
from cambox.output.footer import Recipe
from cambox.output.whole import publish_bytes
from cambox.resolve import class_names, resolve_recipe
from cambox.threads import keep_freed_memory
from cambox.zoomed_image import require_zoomable

LOG = logging.getLogger(__name__)

# What a batch leaves behind stays in the cache then, and its tensors are small enough for malloc
# to keep: in batches of 16 a third of the time went into fresh pages.
BATCH_SIZE_ON_CPU = 4

SMALLEST, LARGEST = 16, 512
# Less of a gain is within what one timing differs from the next, and costs memory.
WORTH = 1.03
TIMINGS = 3
# So long a worker waits for another one's timing; that one may hang.
LOCK_SECONDS = 120.0


@dataclass(frozen=True)
class LoadedModel:
    """The classifier of a run and the recipe that follows from it."""

    classifier: Classifier
    recipe: Recipe


def local_device() -> torch.device:
    """The GPU this process may use, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(config: Config, on_gpu: bool) -> Precision:
    """``auto`` is float32 on a CPU and bfloat16 on a GPU."""
    if config.model.precision == "auto":
        return "bfloat16" if on_gpu else "float32"
    return config.model.precision


def load_model(
    config: Config,
    device: torch.device,
    precision: Precision,
    threads: int,
    kind: HeadKind | None = None,
) -> LoadedModel:
    """Load the classifier, computing with so many threads, and resolve the recipe.

    From then on float32 means float32 in all of the process: a GPU would else take TF32 for
    convolutions, with 10 bits of mantissa where a CPU has 23.

    Args:
        kind: of the head, where another process has found it already.

    Raises:
        RequestError: the model cannot serve, or a setting does not fit it.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # Also for the probing of the head: its rounding depends on the number of threads.
    torch.set_num_threads(threads)
    classifier = load_classifier(config.model, device, precision, config.cam.nonlinear_head, kind)
    if config.cam.refine.steps:
        classifier = with_middle_layers(classifier, config.cam.refine.layers)
    if config.model.keep_aspect:
        classifier = keeping_aspect(classifier, config.model.name)
    # Last: the pass at another size is none that middle layers are looked for in.
    if config.model.class_input_size is not None:
        classifier = with_class_size(classifier, config.model.class_input_size, config.model.name)
    if config.model.class_groups is not None:
        names = class_names(config.model.class_names, classifier.class_count)
        classifier = classifier.of_groups(read_groups(config.model.class_groups, names))
    if config.cam.zoom is not None:
        require_zoomable(classifier, config.model.name)
        classifier = with_middle_layers(classifier, COMPARED_LAYERS)
    if config.output.store_features:
        classifier = with_last_layer(classifier, config.model.name)
    require_fitting(config.cam, classifier)
    return LoadedModel(classifier, resolve_recipe(config, classifier))


def try_pictures(config: Config, model: LoadedModel, threads: int) -> Canary | None:
    """What this process makes of the built-in pictures, computing with so many threads.

    None where memory does not do for them; then shards will say so, too.
    """
    if model.classifier.device.type == "cpu":
        # A driver without a GPU asks this for its workers.
        settings = config.input.model_copy(update={"decoder": "auto"})
        config = config.model_copy(update={"input": settings})
    arguments = config, model.classifier, model.recipe, len(FILES), threads
    with closing(Annotator(*arguments)) as annotator:
        try:
            return tried(annotator)
        except (torch.OutOfMemoryError, MemoryError) as error:
            LOG.warning("the built-in pictures were not tried: %s", one_line(error))
            return None


def make_annotator(
    config: Config,
    model: LoadedModel,
    threads: int,
    canary: Canary | None = None,
    retried: frozenset[str] = frozenset(),
    images: int | None = None,
) -> Annotator:
    """An annotator of this process, computing with so many threads; see its own arguments.

    Args:
        images: that it will annotate, about; None: not known.
    """
    if config.input.decoder == "gpu" and model.classifier.device.type != "cuda":
        raise RequestError(
            "input.decoder: gpu asks for an NVIDIA GPU, and this worker computes on a CPU; set it "
            "to cpu, or give workers a GPU (engine.gpus_per_worker)"
        )
    keep_freed_memory()
    # The decoding threads are parallel already; OpenCV's own would compete with them.
    cv2.setNumThreads(1)
    batch_size = config.engine.batch_size
    if batch_size == "auto":
        batch_size = _batch_size(config.cam.zoom, model.classifier)
    wanted = config.model.compile
    if config.cam.zoom is not None:
        if wanted in ("graph", "inductor"):
            LOG.warning("model.compile: %s is left out, as cam.zoom has inputs of any size", wanted)
        wanted = "eager"
    prepare = partial(prepared, wanted=wanted, count=batch_size, images=images)
    classifier, recipe = model.classifier, model.recipe
    return Annotator(config, classifier, recipe, batch_size, threads, canary, retried, prepare)


def _batch_size(zoom: ZoomSettings | None, classifier: Classifier) -> int:
    if classifier.device.type != "cuda":
        return BATCH_SIZE_ON_CPU
    size = gpu_batch_size(classifier)
    if zoom is None:
        return size
    # What was timed is smaller than the largest look.
    timed = classifier.preprocessing.height * classifier.preprocessing.width
    return max(1, size * timed // max(zoom.sides) ** 2)


def gpu_batch_size(classifier: Classifier) -> int:
    """The fastest batch size of a classifier on its GPU, from an earlier run where there was one.

    Timing takes a few seconds. Of the workers of one machine the first one does it and the others
    wait for what it finds, so that they compute alike.
    """
    return remembered(
        timed_of(classifier),
        lambda: fastest_batch_size(lambda count: _seconds(classifier, count)),
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
