"""The cases of the throughput measurement: forward passes, the pipeline and its stages, peers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import Observed, config_of, packed
from bench.peers import JPEG_SUFFIXES, PEER_LAYERS, Peer, PeerNetwork, run_peer
from cambox.annotator import Annotator
from cambox.batch import AnnotatedBatch
from cambox.boxes import Boxes
from cambox.cams.boxes import find_boxes
from cambox.cams.geometry import MapGeometry
from cambox.config import Config
from cambox.engines.local import LocalEngine
from cambox.engines.worker import make_annotator
from cambox.errors import RequestError
from cambox.maps import MapMaker
from cambox.models.build import build_network
from cambox.models.classifier import Classifier
from cambox.output.publish import to_parquet
from cambox.output.rows import table
from cambox.shard_report import ShardReport
from cambox.sources.load import LoadedSample, load_ahead
from cambox.sources.samples import read_samples
from cambox.sources.shards import Shard, find_shards
from cambox.threads import Stopwatch

PLAIN, PREPARED = "forward, plain", "forward, prepared"
# Of the plain forward pass and of the peers.
PLAIN_BATCH_ON_CPU, PLAIN_BATCH_ON_GPU = 16, 64
# So many that shards are of the size that `cambox pack` makes: the last batches of one do not
# fill all threads.
DIFFERENT_COPIES = 10
Work = Callable[[], int]


@dataclass(frozen=True)
class Bench:
    """What all cases share; ``images`` is how many the shards hold."""

    config: Config
    engine: LocalEngine
    annotator: Annotator
    shards: tuple[Shard, ...]
    images: int
    threads: int

    @classmethod
    def of(cls, config: Config) -> Bench:
        """Load the model and look at the shards."""
        engine = LocalEngine(config)
        annotator = make_annotator(config, engine.model, engine.threads)
        shards = tuple(find_shards(config.input.shards))
        count = sum(1 for shard in shards for _ in read_samples(shard))
        return cls(config, engine, annotator, shards, count, engine.threads)

    @property
    def classifier(self) -> Classifier:
        return self.engine.model.classifier

    @property
    def plain_batch(self) -> int:
        return PLAIN_BATCH_ON_GPU if self.classifier.device.type == "cuda" else PLAIN_BATCH_ON_CPU


def prepare(work: Path, images: Path, model: dict[str, Any], copies: int, threads: int) -> Bench:
    """Pack the images so often, and load the model."""
    repeated = work / "images"
    repeated.mkdir(parents=True)
    in_shards = min(copies, DIFFERENT_COPIES)
    for copy in range(in_shards):
        for path in _photographs(images):
            shutil.copy(path, repeated / f"{copy}-{path.name}")
    shards = packed(repeated, work / "packed", times=-(-copies // in_shards))
    return Bench.of(config_of(shards, work / "out", model, engine={"cpus_per_worker": threads}))


def forward_cases(bench: Bench) -> Iterator[tuple[str, Work]]:
    """The network alone on ready batches, as its library builds it and as cambox runs it."""
    classifier, device = bench.classifier, bench.classifier.device
    batch, size = bench.annotator.batch_size, classifier.preprocessing
    pixels = np.random.default_rng(0).integers(
        0, 256, (max(64, batch), size.height, size.width, 3), dtype=np.uint8
    )
    ready = classifier.normalised(pixels)
    plain = build_network(bench.config.model).to(device)
    contiguous = ready[:64].contiguous()
    lanes = [lane.classifier.module for lane in bench.annotator.lanes]

    def forward_plain() -> int:
        torch.set_num_threads(bench.threads)
        with torch.inference_mode():
            for start in range(0, bench.images, bench.plain_batch):
                plain(contiguous[start % 64 : start % 64 + bench.plain_batch])
            finish(device)
        return -(-bench.images // bench.plain_batch) * bench.plain_batch

    def forward(lane: int) -> int:
        count = 0
        precision = getattr(torch, classifier.precision)
        on = classifier.precision != "float32"
        with torch.inference_mode(), torch.autocast(device.type, precision, enabled=on):
            while count < bench.images // len(lanes):
                first = count % (len(ready) // batch * batch)
                lanes[lane](ready[first : first + batch])
                count += batch
            finish(device)
        return count

    yield PLAIN, forward_plain
    yield PREPARED, lambda: sum(bench.annotator.lane_pool.map(forward, range(len(lanes))))


def own_cases(bench: Bench) -> Iterator[tuple[str, Work]]:
    """From tar shards to published files, and the stages of that alone."""
    annotator = bench.annotator

    def end_to_end(engine: LocalEngine = bench.engine) -> int:
        shutil.rmtree(bench.config.output.uri, ignore_errors=True)
        outcomes = engine.annotate(bench.shards, Observed())
        return sum(outcome.samples for outcome in outcomes if isinstance(outcome, ShardReport))

    def loaded(shard: Shard) -> Iterator[LoadedSample]:
        samples = read_samples(shard)
        together = annotator.decoded_together
        ahead = max(16, 2 * together * bench.threads)
        return load_ahead(
            samples, annotator.load_rule, annotator.decode_pool, together, ahead, Stopwatch()
        )

    some = list(islice(loaded(bench.shards[0]), 64))
    times = max(1, bench.images // len(some))
    lane, config = annotator.lanes[0], bench.config
    maker = MapMaker(config.cam, lane.classifier)
    size = annotator.load_rule.input_height, annotator.load_rule.input_width
    with torch.inference_mode():
        scores = lane.classifier.scores(np.stack([s.pixels for s in some if s.pixels is not None]))
        maps = maker.maps(scores, scores.logits.topk(5).indices).cpu()
    whole = AnnotatedBatch()
    annotated = lane.annotate("shard", some, Stopwatch())
    for _ in range(times):
        whole.add(annotated)

    def boxes_of(images: torch.Tensor) -> object:
        return find_boxes(
            images.flatten(0, 1), MapGeometry(size).upsampled_size(config.boxes), config.boxes
        )

    # As many images for a thread at a time as in a run.
    together = min(lane.together, max(1, len(maps) // bench.threads))
    parts = [maps[first : first + together] for first in range(0, len(maps), together)]

    def boxes() -> int:
        list(annotator.box_pool.map(boxes_of, parts * times))
        return times * len(some)

    def write() -> int:
        names = bench.engine.recipe.class_names
        to_parquet(table(whole.rows, Boxes.joined(whole.boxes), names, with_maps=False))
        return len(whole.rows)

    yield "cambox, end to end", end_to_end
    if bench.classifier.device.type == "cuda":
        read = bench.config.input.model_copy(update={"decoder": "gpu"})
        engine = LocalEngine(bench.config.model_copy(update={"input": read}))
        yield "the same, JPEGs by the GPU", lambda: end_to_end(engine)
    yield "read alone", lambda: sum(1 for shard in bench.shards for _ in read_samples(shard))
    yield "read and decode alone", lambda: sum(1 for shard in bench.shards for _ in loaded(shard))
    yield "boxes alone", boxes
    yield "rows to Parquet alone", write


def peer_cases(bench: Bench, work: Path, images: Path, count: int) -> Iterator[tuple[str, Work]]:
    """The peers over so many of the images, grad-cam over a fifth.

    Raises:
        RequestError: nobody has told the peers the layers of this model.
    """
    layers = PEER_LAYERS.get(bench.config.model.name)
    if layers is None:
        known = ", ".join(PEER_LAYERS)
        raise RequestError(f"--model: peers are told layers by name, known of {known}")
    size = bench.classifier.preprocessing
    for peer in layers.peers:
        network = PeerNetwork(
            build_network(bench.config.model).to(bench.classifier.device),
            layers,
            bench.classifier.precision,
            size.width,
            size.mean,
            size.std,
        )
        own = count // 5 if peer == "grad-cam" else count
        shards = _a_shard_for_each_worker(work / peer, images, own, bench.threads)

        def run(
            peer: Peer = peer, network: PeerNetwork = network, shards: list[Path] = shards
        ) -> int:
            torch.set_num_threads(bench.threads)
            to = work / peer / "boxes"
            return run_peer(peer, network, shards, to, bench.plain_batch, bench.threads)

        yield peer, run


def _a_shard_for_each_worker(folder: Path, images: Path, count: int, shards: int) -> list[Path]:
    """So many of the images, packed."""
    chosen = _photographs(images)[: max(count, shards)]
    (folder / "images").mkdir(parents=True)
    for path in chosen:
        shutil.copy(path, folder / "images" / path.name)
    packed(folder / "images", folder / "shards", -(-len(chosen) // shards))
    return sorted((folder / "shards").glob("*.tar"))


def _photographs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in JPEG_SUFFIXES)


def finish(device: torch.device) -> None:
    """Wait for what a GPU still computes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
