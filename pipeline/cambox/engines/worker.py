"""One worker: a classifier on one device, annotating one shard at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass

import cv2
import torch

from cambox.annotate import Annotator
from cambox.config import Config
from cambox.engines.batch_size import gpu_batch_size
from cambox.maps import require_fitting
from cambox.models.classifier import (
    Classifier,
    Precision,
    load_classifier,
    with_class_size,
    with_middle_layers,
)
from cambox.output.recipe import Recipe, resolve_recipe

# What a batch leaves behind stays in the cache then, and its tensors are small enough for malloc
# to keep: in batches of 16 a third of the time went into fresh pages.
BATCH_SIZE_ON_CPU = 4


@dataclass(frozen=True)
class LoadedModel:
    """The classifier of a run and the recipe that follows from it."""

    classifier: Classifier
    recipe: Recipe


@dataclass(frozen=True)
class WorkerDescription:
    """Where a worker of a cluster runs."""

    node: str
    process: int
    gpus: tuple[str, ...]
    device: str
    threads: int

    def __str__(self) -> str:
        gpus = f"GPU {', '.join(self.gpus)}" if self.gpus else "no GPU"
        return (
            f"process {self.process} on node {self.node[:8]}: {gpus}, computing on {self.device}, "
            f"{self.threads} threads"
        )


def local_device() -> torch.device:
    """The GPU this process may use, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def local_threads() -> int:
    """The CPUs this process may use; the machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_precision(config: Config, on_gpu: bool) -> Precision:
    """``auto`` is float32 on a CPU and bfloat16 on a GPU."""
    if config.model.precision == "auto":
        return "bfloat16" if on_gpu else "float32"
    return config.model.precision


def load_model(
    config: Config, device: torch.device, precision: Precision, threads: int
) -> LoadedModel:
    """Load the classifier, computing with so many threads, and resolve the recipe.

    Raises:
        RequestError: the model cannot serve, or a setting does not fit it.
    """
    # Also for the probing of the head: its rounding depends on the number of threads.
    torch.set_num_threads(threads)
    classifier = load_classifier(config.model, device, precision, config.cam.nonlinear_head)
    if config.cam.refine.steps:
        classifier = with_middle_layers(classifier, config.cam.refine.layers)
    # Last: the pass at another size is none that middle layers are looked for in.
    if config.model.class_input_size is not None:
        classifier = with_class_size(classifier, config.model.class_input_size, config.model.name)
    require_fitting(config.cam, classifier)
    return LoadedModel(classifier, resolve_recipe(config, classifier))


def make_annotator(config: Config, model: LoadedModel, threads: int) -> Annotator:
    """An annotator of this process, computing with so many threads."""
    # The decoding threads are parallel already; OpenCV's own would compete with them.
    cv2.setNumThreads(1)
    batch_size = config.engine.batch_size
    if batch_size == "auto":
        on_gpu = model.classifier.device.type == "cuda"
        batch_size = gpu_batch_size(model.classifier) if on_gpu else BATCH_SIZE_ON_CPU
    return Annotator(config, model.classifier, model.recipe, batch_size, threads)
