"""The same classifier several times, to run several batches at once.

On a CPU small networks spend much of two threads on waiting for each other after each layer; two
batches on one thread each do not wait. On a GPU one batch is computed while boxes and rows of the
other are made. Hooks belong to a module, so each lane has modules of its own, over
the same weights.
"""

from __future__ import annotations

import copy

from cambox.models.classifier import Classifier
from cambox.models.heads import AffineHead
from cambox.models.prepare import packed_weights

# More lanes than this would wait for Python; beyond it each gets several threads.
MOST_LANES = 8
# While one batch's boxes and rows are made, the GPU computes the other.
GPU_LANES = 2


def lane_count(classifier: Classifier, threads: int) -> int:
    """How many batches to run at once with so many threads."""
    return min(threads, MOST_LANES) if classifier.device.type == "cpu" else GPU_LANES


def lanes(classifier: Classifier, count: int) -> list[Classifier]:
    """So many classifiers that can run at the same time; they share all weights."""
    return [classifier, *(_sharing_weights(classifier) for _ in range(count - 1))]


def _sharing_weights(classifier: Classifier) -> Classifier:
    module, head = classifier.module, classifier.head
    shared = [*module.parameters(), *module.buffers(), *packed_weights(module)]
    if isinstance(head, AffineHead):
        shared += [head.weight, head.bias]
    # What deepcopy finds there it takes as copied already.
    return copy.deepcopy(classifier, {id(tensor): tensor for tensor in shared})
