"""Each part of a worker's work alone, by the pieces that do it in a run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence

from cambox.annotator import Annotator
from cambox.batch import BatchAnnotator, ScoredImage
from cambox.errors import RequestError
from cambox.measure.clock import Tell, until
from cambox.sources.load import LoadedSample, load_ahead
from cambox.sources.samples import Sample
from cambox.threads import Stopwatch, grouped

# Ready images, of which batches are made.
READY = 64


def decode(
    annotator: Annotator, samples: Sequence[Sample], seconds: float, tell: Tell
) -> tuple[float, list[LoadedSample]]:
    """Images a second that all threads decode and resize, from memory; and some of them.

    Raises:
        RequestError: none of them can be decoded.
    """
    together = annotator.decoded_together
    ahead = max(16, 2 * together * annotator.threads)

    def loaded(some: Iterator[Sample]) -> Iterator[LoadedSample]:
        pool = annotator.decode_pool
        return load_ahead(some, annotator.load_rule, pool, together, ahead, Stopwatch())

    first = list(loaded(itertools.islice(samples, READY)))
    ready = [one for one in first if one.pixels is not None]
    if not ready:
        raise RequestError(f"none of {len(first)} images can be decoded: {first[0].error}")
    again = itertools.cycle(samples)
    count, start = 0, time.perf_counter()
    for _ in loaded(next(again) for _ in until(seconds)):
        count += 1
        tell("decode", count / (time.perf_counter() - start))
    return count / (time.perf_counter() - start), ready


def network(
    annotator: Annotator, ready: Sequence[LoadedSample], seconds: float, tell: Tell
) -> float:
    """Images a second of the forward pass, with the maps of the classes that get boxes."""
    for lane in annotator.lanes:
        # What a run does first: kernels are chosen, and a batch beyond the memory is halved.
        batch = _batch(ready, annotator.batch_size)
        annotator.lane_pool.submit(lane.annotate, "", batch, Stopwatch()).result()
    size = min(annotator.batch_size, *(lane.forward_size for lane in annotator.lanes))
    start = time.perf_counter()

    def passes(lane: BatchAnnotator) -> int:
        batch, count = _batch(ready, size), 0
        for _ in until(seconds):
            _scored(lane, batch)
            count += len(batch)
            tell("network", len(annotator.lanes) * count / (time.perf_counter() - start))
        return count

    count = sum(annotator.lane_pool.map(passes, annotator.lanes))
    return count / (time.perf_counter() - start)


def boxes(annotator: Annotator, ready: Sequence[LoadedSample], seconds: float, tell: Tell) -> float:
    """Images a second that all threads find the boxes of, from ready maps."""
    lane = annotator.lanes[0]
    scored = annotator.lane_pool.submit(_scored, lane, _batch(ready, READY)).result()
    # As many images for a thread at a time as in a run.
    groups = list(grouped(scored, min(lane.together, max(1, len(scored) // annotator.threads))))
    count = 0
    list(annotator.box_pool.map(lane.looks.boxes, groups))  # compiles
    start = time.perf_counter()
    for _ in until(seconds):
        list(annotator.box_pool.map(lane.looks.boxes, groups))
        count += len(scored)
        tell("boxes", count / (time.perf_counter() - start))
    return count / (time.perf_counter() - start)


def _scored(lane: BatchAnnotator, batch: list[LoadedSample]) -> Sequence[ScoredImage]:
    with lane.classifier.on_its_stream():
        return lane.looks.score(batch)


def _batch(ready: Sequence[LoadedSample], size: int) -> list[LoadedSample]:
    return list(itertools.islice(itertools.cycle(ready), size))
