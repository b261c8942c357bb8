"""The forward pass for batches of one size only, so that it can be a single operation.

Each operation of an eager network gives the interpreter's lock away and waits to have it again. A
CUDA graph is one operation: what was recorded once is computed again, on the same memory. A smaller
batch is padded with whatever images were there before, which no other image sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from cambox.models.classifier import Classifier, Scores

# Before recording, as libraries choose their kernels and take their memory then.
WARM_UP = 3
# The last batch of a shard is smaller; it is computed by the smallest that holds it, of so many
# sizes, each half of the one before. For each a library may compile its kernels anew: of
# MobileNetV2's depthwise layers cuDNN took 2.5 s on an H200.
SIZES = 3

Run = Callable[[torch.Tensor], Scores]


class FixedBatch:
    """A forward pass that takes at most so many images, and computes as many each time.

    Args:
        run: of images (count, height, width, 3) uint8 on the device.
        given: those images, whose memory it always reads.
    """

    def __init__(self, run: Run, given: torch.Tensor) -> None:
        self.run = run
        self.given = given

    @property
    def count(self) -> int:
        """The most images that it takes."""
        return len(self.given)

    def __call__(self, pixels: torch.Tensor) -> Scores:
        """The scores of images (B, height, width, 3) uint8, of the CPU or the device.

        They are copies: what the run made is overwritten by the next one.
        """
        count = len(pixels)
        self.given[:count].copy_(pixels, non_blocking=True)
        made = self.run(self.given)
        return made.with_tensors([tensor[:count].clone() for tensor in made.tensors()])


class FixedPasses:
    """What one copy of a classifier runs: one pass for each size of batch.

    Args:
        passes: from the smallest.
        way: how they were made.
        stream: of the GPU, which they and what follows them are computed on; None: no GPU.
    """

    def __init__(
        self, passes: Sequence[FixedBatch], way: str, stream: torch.cuda.Stream | None = None
    ) -> None:
        self.passes = passes
        self.way = way
        self.stream = stream

    @property
    def most(self) -> int:
        """Images of the largest pass."""
        return self.passes[-1].count

    def __call__(self, pixels: torch.Tensor) -> Scores:
        """The scores of images (B, height, width, 3) uint8, ``most`` at most."""
        smallest = next(one for one in self.passes if len(pixels) <= one.count)
        with torch.inference_mode():
            return smallest(pixels)

    def on_its_stream(self) -> AbstractContextManager[None]:
        """Within it the GPU computes in the order of this copy, beside the others'."""
        if self.stream is None:
            return nullcontext()
        context: AbstractContextManager[None] = torch.cuda.stream(self.stream)
        return context


def sizes_of(count: int) -> list[int]:
    """The sizes that are recorded for batches of ``count``, from the largest.

    >>> sizes_of(100), sizes_of(3)
    ([100, 50, 25], [3, 2, 1])
    """
    sizes = [-(-count // 2**halvings) for halvings in range(SIZES)]
    return sorted(set(sizes), reverse=True)


def images_for(classifier: Classifier, count: int) -> torch.Tensor:
    """Memory for a pass's images (count, height, width, 3), on the device; black."""
    size = classifier.preprocessing
    # Not of inference mode, outside of which its tensors cannot be written.
    with torch.inference_mode(False):
        return torch.zeros(
            count, size.height, size.width, 3, dtype=torch.uint8, device=classifier.device
        )


def as_graphs(runs: Sequence[tuple[int, Run]], classifier: Classifier, way: str) -> FixedPasses:
    """Passes as CUDA graphs, on a stream of their own.

    They share their memory: one copy of a classifier runs one of them at a time. What a graph made
    stays out of the others' way for as long as it is held.

    Args:
        runs: how many images and their forward pass, from the largest.

    Raises:
        RuntimeError: the pass waits for the GPU or copies to it, or memory ran out.
    """
    stream = torch.cuda.Stream(classifier.device)  # type: ignore[no-untyped-call]
    pool = torch.cuda.graph_pool_handle()
    passes: list[FixedBatch] = []
    # What is computed on other streams yet, such as weights that were copied.
    torch.cuda.synchronize(classifier.device)
    for count, run in runs:
        given = images_for(classifier, count)
        torch.cuda.synchronize(classifier.device)
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(WARM_UP):
                run(given)
            # What waits for the GPU is told now: a recording that fails may cost memory for good.
            with _no_waiting():
                run(given)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile, such as those of an annotator beside this one.
        with (
            torch.inference_mode(),
            torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"),
        ):
            made = run(given)
        passes.append(FixedBatch(_replaying(graph, made), given))
    torch.cuda.synchronize(classifier.device)
    return FixedPasses(passes[::-1], way, stream)


@contextmanager
def _no_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _replaying(graph: torch.cuda.CUDAGraph, made: Scores) -> Run:
    def replay(_: torch.Tensor) -> Scores:
        graph.replay()
        return made

    return replay
