"""The ways to run a forward pass, and which one a worker takes: ``model.compile``.

``eager`` is one operation after the other. ``graph`` is the same kernels as one CUDA graph. By
``inductor`` PyTorch compiles the pass into fewer kernels, which takes it long, and on a GPU a graph
runs those. Whatever was prepared is compared with the pass as it was, and taken back if it differs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from cambox.console import one_line
from cambox.models.classifier import Classifier
from cambox.models.fixed import FixedBatch, FixedPasses, Run, as_graphs, images_for, sizes_of
from cambox.models.fold import TOLERANCE
from cambox.models.heads import TailHead, score_error
from cambox.models.inductor import compiled

LOG = logging.getLogger(__name__)

Wanted = Literal["auto", "eager", "graph", "inductor"]
Way = Literal["graph", "inductor"]
Clock = Callable[[], float]

# Of a worker, which annotates as many within ten seconds on an H200; to be ready with graphs takes
# 2 to 10.
FEWEST_IMAGES_OF_GRAPHS = 10_000
# To compile and record ResNet-50 took 12 s there; a worker may share its CPUs with others.
START_UP_SECONDS = 60.0
# Of the network's time, at best: compiled, ResNet-50 took half.
MOST_SAVED = 0.5
# Less of a gain is within what one timing differs from the next.
WORTH = 1.03
TIMINGS = 5
# Two passes that round alike may be so much further apart than one of them is from the exact one,
# which is asked with so many images, as it takes more memory.
ROUNDED_TWICE, ROUNDED_IMAGES = 2.0, 8


def prepared(
    lanes: Sequence[Classifier],
    wanted: Wanted,
    count: int,
    images: int | None = None,
    gpu_share: float = 1.0,
    clock: Clock = time.perf_counter,
) -> list[Classifier]:
    """Copies of a classifier whose forward passes are made quick for batches of one size.

    Larger batches, and inputs of another size, run as before. All copies go the same way, or none.

    Args:
        wanted: ``auto`` is eager on a CPU and in short runs; on a GPU else a graph, or compiled,
            where the run is long enough to pay for that, too, and it is quicker.
        count: images in a batch.
        images: that this worker will annotate, about; None: not known, a graph is taken.
        gpu_share: of a GPU that this worker has; what compiling saves is time of the GPU, and so of
            others on it as well.
        clock: in seconds.
    """
    plain, on_a_gpu = list(lanes), on_gpu(lanes[0])
    short = images is not None and images < FEWEST_IMAGES_OF_GRAPHS
    if wanted == "eager" or (wanted == "auto" and (short or not on_a_gpu)):
        return plain
    reason = _not_fixed(lanes[0])
    if reason is None and wanted == "graph" and not on_a_gpu:
        reason = "this worker has no GPU"
    if reason is not None:
        if wanted != "auto":
            LOG.warning("model.compile: %s is left out, as %s", wanted, reason)
        return plain
    best = plain
    if on_a_gpu:
        best = _taken("graph", plain, lambda: _graphs(plain, count)) or plain
    if wanted == "auto":
        # Where there is no graph memory may be scarce, and nothing is timed.
        if best is plain or images is None:
            return best
        if not pays(seconds_of(best[0], count, clock), count, round(images / gpu_share)):
            return best
    if wanted != "graph":
        quick = _taken("inductor", plain, lambda: _compiled(plain, best, count))
        if quick and (wanted == "inductor" or _quicker(quick, best, count, clock)):
            return quick
    return best


def on_gpu(classifier: Classifier) -> bool:
    """Whether it is computed by one that records graphs."""
    return classifier.device.type == "cuda"


def pays(seconds: float, count: int, images: int) -> bool:
    """Whether a run is long enough for what compiling saves to be more than what it takes.

    >>> pays(0.04, count=512, images=1_000_000), pays(0.04, count=512, images=10_000_000)
    (False, True)

    Args:
        seconds: that the network takes for a batch of ``count``, not compiled.
        images: that its GPU will compute.
    """
    return MOST_SAVED * seconds * images / count > START_UP_SECONDS


def seconds_of(classifier: Classifier, count: int, clock: Clock) -> float:
    """Of a batch, the quickest of several, from the images' arrival to their scores."""
    images = try_out_images(classifier, count)
    taken = []
    for _ in range(1 + TIMINGS):  # the first picks the kernels
        start = clock()
        with classifier.on_its_stream():
            classifier.scores(images)
        if on_gpu(classifier):
            torch.cuda.synchronize(classifier.device)
        taken.append(clock() - start)
    return min(taken[1:])


def try_out_images(classifier: Classifier, count: int, seed: int = 0) -> np.ndarray:
    """Noise (count, height, width, 3) uint8."""
    size = classifier.preprocessing
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, size.height, size.width, 3), dtype=np.uint8)


def _not_fixed(classifier: Classifier) -> str | None:
    """Why a classifier's passes cannot be fixed, in words; None: they can be."""
    if isinstance(classifier.head, TailHead):
        return f"maps of a head of kind {classifier.head.kind} need the graph of its gradients"
    if classifier.aspect == "kept":
        return "images keep their shape, so that no two batches need have the same"
    return None


def _taken(
    way: Way, plain: list[Classifier], prepare: Callable[[], list[FixedPasses]]
) -> list[Classifier] | None:
    """The copies with what was prepared, if it can be and gives what they give without it."""
    try:
        quick = [replace(lane, quick=passes) for lane, passes in zip(plain, prepare(), strict=True)]
        for lane, other in zip(plain, quick, strict=True):
            _require_alike(lane, other)
        if on_gpu(plain[0]):
            # What was needed to try it is of use to others on the GPU.
            torch.cuda.empty_cache()
    except Exception as error:  # noqa: BLE001 (compilers and drivers raise anything; all is well)
        LOG.warning(
            "model.compile: the forward pass stays as it was, as %s did not work: %s; set "
            "eager, and it is not tried",
            way,
            one_line(error, 300),
        )
        return None
    return quick


def _graphs(plain: list[Classifier], count: int) -> list[FixedPasses]:
    return [
        as_graphs([(size, lane.scores_of) for size in sizes_of(count)], lane, "graph")
        for lane in plain
    ]


def _compiled(plain: list[Classifier], best: list[Classifier], count: int) -> list[FixedPasses]:
    """For full batches; smaller ones run as graphs of what is not compiled, or are padded."""
    run = compiled(plain[0], count)
    made = []
    for lane, quick in zip(plain, best, strict=True):
        if not on_gpu(lane):
            made.append(FixedPasses([FixedBatch(run, images_for(lane, count))], "inductor"))
            continue
        smaller = [] if quick.quick is None else sizes_of(count)[1:]
        runs: list[tuple[int, Run]] = [(size, lane.scores_of) for size in smaller]
        made.append(as_graphs([(count, run), *runs], lane, "inductor"))
    return made


def _quicker(one: list[Classifier], other: list[Classifier], count: int, clock: Clock) -> bool:
    seconds, before = (seconds_of(lanes[0], count, clock) for lanes in (one, other))
    LOG.info(
        "model.compile: a batch of %d takes %.1f ms compiled, %.1f ms not compiled",
        *(count, 1000 * seconds, 1000 * before),
    )
    return seconds * WORTH < before


def _require_alike(plain: Classifier, quick: Classifier) -> None:
    """See that all passes give the scores of the pass as it was, also when they are padded.

    In 16 bits they may be twice as far from it as it is from the scores in 32: so far two passes
    can be apart that are rounded equally well.

    Raises:
        ValueError: they do not.
    """
    assert quick.quick is not None
    # Twice each, as what one pass gave must outlast the next; the second time one image short.
    sizes = [one.count for one in quick.quick.passes for _ in range(2)]
    tried = [try_out_images(plain, size, place) for place, size in enumerate(sizes)]
    counts = [max(1, size - place % 2) for place, size in enumerate(sizes)]
    with quick.on_its_stream():
        pairs = zip(tried, counts, strict=True)
        found = [quick.scores(images[:count]).tensors() for images, count in pairs]
        if on_gpu(plain):
            torch.cuda.synchronize(plain.device)
    for images, given in zip(tried, found, strict=True):
        # Of all images: for other sizes a library might have to compile its kernels anew.
        expected = [one[: len(given[0])] for one in plain.scores(images).tensors()]
        errors = [score_error(*pair) for pair in zip(given, expected, strict=True)]
        # Not a number is no number below another.
        if all(error <= TOLERANCE for error in errors):
            continue
        for error, rounding in zip(errors, _roundings(plain, images[:ROUNDED_IMAGES]), strict=True):
            if not error <= max(TOLERANCE, ROUNDED_TWICE * rounding):
                raise ValueError(
                    f"of a batch of {len(images)} scores or features differ by {error:.2g} of "
                    f"their spread, where the precision explains {rounding:.2g}"
                )


def _roundings(classifier: Classifier, images: np.ndarray) -> list[float]:
    """How far the precision moves each tensor of the scores, as a share of its spread."""
    rounded, exact = (
        one.scores(images).tensors()
        for one in (classifier, replace(classifier, precision="float32"))
    )
    return [score_error(*pair) for pair in zip(rounded, exact, strict=True)]
