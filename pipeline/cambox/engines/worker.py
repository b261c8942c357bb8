"""What makes a process a worker: its device and classifier, its annotator."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import cv2
import torch

from cambox.annotator import Annotator
from cambox.cams.pyramid import COMPARED_LAYERS
from cambox.canary.rows import FILES, Canary
from cambox.canary.trial import tried
from cambox.config import Config
from cambox.console import one_line
from cambox.engines.batch_size import automatic_batch_size
from cambox.engines.gpu import keep_to_share, sleep_while_gpus_compute
from cambox.errors import RequestError
from cambox.maps import require_fitting
from cambox.models.aspect import keeping_aspect
from cambox.models.classifier import Classifier, Precision
from cambox.models.groups import read_groups
from cambox.models.heads import HeadKind
from cambox.models.last_layer import with_last_layer
from cambox.models.load import load_classifier, with_class_size
from cambox.models.middle import with_middle_layers
from cambox.models.offset import with_offset
from cambox.models.ways import prepared
from cambox.output.footer import Recipe
from cambox.resolve import class_names, resolve_recipe
from cambox.threads import keep_freed_memory
from cambox.zoomed_image import require_zoomable

LOG = logging.getLogger(__name__)


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
    if device.type == "cuda":
        sleep_while_gpus_compute()
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # Also for the probing of the head: its rounding depends on the number of threads.
    torch.set_num_threads(threads)
    classifier = load_classifier(config.model, device, precision, config.cam.nonlinear_head, kind)
    classifier = with_offset(classifier, config.cam.offset)
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
    gpu_share: float = 1.0,
) -> Annotator:
    """An annotator of this process, computing with so many threads; see its own arguments.

    Args:
        images: that it will annotate, about; None: not known.
        gpu_share: how much of a GPU it has; less than 1 where others are on it, too.
    """
    if config.input.decoder == "gpu" and model.classifier.device.type != "cuda":
        raise RequestError(
            "input.decoder: gpu asks for an NVIDIA GPU, and this worker computes on a CPU; set it "
            "to cpu, or give workers a GPU (engine.gpus_per_worker)"
        )
    keep_freed_memory()
    # The decoding threads are parallel already; OpenCV's own would compete with them.
    cv2.setNumThreads(1)
    if model.classifier.device.type == "cuda" and gpu_share < 1:
        keep_to_share(gpu_share)
    batch_size = config.engine.batch_size
    if batch_size == "auto":
        batch_size = automatic_batch_size(config.cam.zoom, model.classifier, gpu_share)
    wanted = config.model.compile
    if config.cam.zoom is not None:
        if wanted in ("graph", "inductor"):
            LOG.warning("model.compile: %s is left out, as cam.zoom has inputs of any size", wanted)
        wanted = "eager"
    prepare = partial(prepared, wanted=wanted, count=batch_size, images=images, gpu_share=gpu_share)
    classifier, recipe = model.classifier, model.recipe
    return Annotator(config, classifier, recipe, batch_size, threads, canary, retried, prepare)
