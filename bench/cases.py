"""The cases of the throughput measurement: forward passes, the pipeline and its stages, peers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.observed import Observed
from bench.peers import JPEG_SUFFIXES, PEER_LAYERS, Peer, PeerNetwork, run_peer
from cambox.annotate import ShardReport
from cambox.config import Config
from cambox.engines.local import LocalEngine
from cambox.engines.worker import make_annotator
from cambox.errors import RequestError
from cambox.models.build import build_network
from cambox.models.classifier import Classifier
from cambox.output.rows import table
from cambox.output.serialise import to_parquet
from cambox.sources.load import LoadedSample, load_ahead
from cambox.sources.pack import pack
from cambox.sources.samples import read_samples
from cambox.sources.shards import Shard, find_shards
from cambox.stopwatch import Stopwatch

PLAIN, PREPARED = "forward, plain", "forward, prepared"
# Of the plain forward pass and of the peers.
PLAIN_BATCH_ON_CPU, PLAIN_BATCH_ON_GPU = 16, 64
# So many that shards are of the size that `cambox pack` makes: the last batches of one do not
# fill all threads.
DIFFERENT_COPIES = 10
Work = Callable[[], int]


@dataclass(frozen=True)
class Bench:
    """What all cases share."""

    config: Config
    engine: LocalEngine
    shards: tuple[Shard, ...]
    images: int
    threads: int

    @property
    def classifier(self) -> Classifier:
        return self.engine.model.classifier

    @property
    def batch(self) -> int:
        """Of the plain forward pass and of the peers."""
        return PLAIN_BATCH_ON_GPU if self.classifier.device.type == "cuda" else PLAIN_BATCH_ON_CPU


def prepare(work: Path, images: Path, model: dict[str, Any], copies: int, threads: int) -> Bench:
    """Pack the images so often, and load the model."""
    repeated, packed = work / "images", work / "packed"
    repeated.mkdir()
    in_shards = min(copies, DIFFERENT_COPIES)
    for copy in range(in_shards):
        for path in images.iterdir():
            if path.suffix.lower() in JPEG_SUFFIXES:
                shutil.copy(path, repeated / f"{copy}-{path.name}")
    pack(repeated, packed)
    # The same shards under other names take no room on the disk.
    for again in range(1, -(-copies // in_shards)):
        for shard in sorted(packed.glob("shard-*.tar")):
            os.link(shard, packed / f"again-{again}-{shard.name}")
    config = Config.model_validate(
        {
            "input": {"shards": [str(packed / "*.tar")]},
            "model": model,
            "cam": {"top_k": 5},
            "output": {"uri": str(work / "out")},
            "engine": {"cpus_per_worker": threads},
        }
    )
    shards = tuple(find_shards(config.input.shards))
    count = sum(1 for shard in shards for _ in read_samples(shard))
    return Bench(config, LocalEngine(config), shards, count, threads)


def forward_cases(bench: Bench) -> Iterator[tuple[str, Work]]:
    """The network alone on ready batches, as its library builds it and as cambox runs it."""
    classifier, device = bench.classifier, bench.classifier.device
    size = classifier.preprocessing
    pixels = np.random.default_rng(0).integers(
        0, 256, (64, size.height, size.width, 3), dtype=np.uint8
    )
    plain = build_network(bench.config.model).module.to(device)
    contiguous = classifier.normalised(pixels).contiguous()

    def forward_plain() -> int:
        torch.set_num_threads(bench.threads)
        with torch.inference_mode():
            for start in range(0, bench.images, bench.batch):
                plain(contiguous[start % 64 : start % 64 + bench.batch])
            _finish(device)
        return -(-bench.images // bench.batch) * bench.batch

    yield PLAIN, forward_plain

    def forward_prepared() -> int:
        with make_annotator(bench.config, bench.engine.model, bench.threads) as annotator:
            batch = annotator.batch_size
            ready = classifier.normalised(np.resize(pixels, (max(64, batch), *pixels.shape[1:])))
            lanes = [lane.classifier for lane in annotator.lanes]

            def forward(lane: int) -> int:
                count = 0
                precision = getattr(torch, classifier.precision)
                on = classifier.precision != "float32"
                with torch.inference_mode(), torch.autocast(device.type, precision, enabled=on):
                    while count < bench.images // len(lanes):
                        first = count % (len(ready) // batch * batch)
                        lanes[lane].module(ready[first : first + batch])
                        count += batch
                    _finish(device)
                return count

            return sum(annotator.lane_pool.map(forward, range(len(lanes))))

    yield PREPARED, forward_prepared


def own_cases(bench: Bench) -> Iterator[tuple[str, Work]]:
    """From tar shards to published files, and the stages of that alone."""

    def end_to_end() -> int:
        shutil.rmtree(bench.config.output.uri, ignore_errors=True)
        outcomes = bench.engine.annotate(bench.shards, Observed())
        return sum(outcome.samples for outcome in outcomes if isinstance(outcome, ShardReport))

    yield "cambox, end to end", end_to_end
    yield "read alone", lambda: sum(1 for shard in bench.shards for _ in read_samples(shard))

    annotator = make_annotator(bench.config, bench.engine.model, bench.threads)

    def loaded(shard: Shard) -> Iterator[LoadedSample]:
        samples = read_samples(shard)
        return load_ahead(samples, annotator.load_rule, annotator.decode_pool, 1, 16, Stopwatch())

    yield (
        "read and decode alone",
        lambda: sum(1 for shard in bench.shards for _ in loaded(shard)),
    )

    some = list(islice(loaded(bench.shards[0]), 64))
    lane = annotator.lanes[0]
    with torch.inference_mode():
        scores = lane.classifier.scores(np.stack([s.pixels for s in some if s.pixels is not None]))
        classes = scores.logits.topk(5).indices
        maps = lane.map_maker.maps(scores, classes).cpu()

    def boxes() -> int:
        rounds = max(1, bench.images // len(some))
        for _ in range(rounds):
            list(annotator.box_pool.map(lane.boxing.boxes, maps))
        return rounds * len(some)

    yield "boxes alone", boxes
    rows = lane.annotate("shard", some, Stopwatch()).rows

    def write() -> int:
        rounds = max(1, bench.images // len(rows))
        to_parquet(table(rows * rounds, with_maps=False))
        return rounds * len(rows)

    yield "rows to Parquet alone", write


def peer_cases(bench: Bench, work: Path, images: Path, count: int) -> Iterator[tuple[str, Work]]:
    """The peers over so many of the images, grad-cam over a fifth.

    Raises:
        RequestError: nobody has told the peers the layers of this model.
    """
    name = bench.config.model.name
    if name not in PEER_LAYERS:
        known = ", ".join(PEER_LAYERS)
        raise RequestError(f"--model: peers are told layers by name, known of {known}")
    layers = PEER_LAYERS[name]
    size = bench.classifier.preprocessing
    for peer in layers.peers:
        network = PeerNetwork(
            build_network(bench.config.model).module.to(bench.classifier.device),
            layers,
            bench.classifier.precision,
            size.width,
            size.mean,
            size.std,
        )
        own = count // 5 if peer == "grad-cam" else count
        shards = _some(work / peer, images, own, bench.threads)

        def run(
            peer: Peer = peer, network: PeerNetwork = network, shards: list[Path] = shards
        ) -> int:
            torch.set_num_threads(bench.threads)
            return run_peer(
                peer, network, shards, work / peer / "boxes", bench.batch, bench.threads
            )

        yield peer, run


def _some(folder: Path, images: Path, count: int, shards: int) -> list[Path]:
    """So many of the images, in a shard for each worker."""
    photographs = (path for path in images.iterdir() if path.suffix.lower() in JPEG_SUFFIXES)
    chosen = sorted(photographs)[: max(count, shards)]
    (folder / "images").mkdir(parents=True)
    for path in chosen:
        shutil.copy(path, folder / "images" / path.name)
    pack(folder / "images", folder / "shards", samples_per_shard=-(-len(chosen) // shards))
    return sorted((folder / "shards").glob("*.tar"))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
