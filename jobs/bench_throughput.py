"""How close the pipeline comes to the bare forward pass, and how far its peers are."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from jobs.bench_peers import JPEG_SUFFIXES, PEERS, Peer, PeerNetwork, run_peer
from pipeline.annotate import ShardReport
from pipeline.annotations.footer import library_versions
from pipeline.annotations.rows import table
from pipeline.annotations.serialise import to_parquet
from pipeline.config import Config
from pipeline.engines.local import LocalEngine
from pipeline.engines.worker import make_annotator
from pipeline.errors import RequestError
from pipeline.models.build import build_network
from pipeline.models.classifier import Classifier
from pipeline.sources.load import LoadedSample, load_ahead
from pipeline.sources.pack import pack
from pipeline.sources.samples import read_samples
from pipeline.sources.shards import Shard, find_shards
from pipeline.stopwatch import Stopwatch

PLAIN, PREPARED = "forward, plain", "forward, prepared"
# Of the plain forward pass and of the peers.
PLAIN_BATCH_ON_CPU, PLAIN_BATCH_ON_GPU = 16, 64
# The modules that a user names: last feature map, last linear layer.
LAYERS = {"mobilenetv2_100": ("bn2", "classifier"), "resnet50": ("layer4", "fc")}
Work = Callable[[], int]


@dataclass(frozen=True)
class Timing:
    """One case.

    Attributes:
        milliseconds: per image, of each repeat.
        to_plain, to_prepared: median over the repeats of the forward pass's time in the same
            repeat over this one's; 1 is as fast as the forward pass.
        gpu_bytes: the most of the GPU's memory that was in use at once; None on a CPU.
    """

    case: str
    milliseconds: list[float]
    to_plain: float
    to_prepared: float
    gpu_bytes: int | None


@dataclass(frozen=True)
class _Bench:
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


def throughput(
    images: Annotated[Path, typer.Argument(help="Folder of JPEG files")],
    model: Annotated[str, typer.Option(help="Settings of the model, as JSON")] = (
        '{"name": "mobilenetv2_100"}'
    ),
    repeats: Annotated[int, typer.Option(min=1, help="Rounds through all cases")] = 5,
    copies: Annotated[int, typer.Option(min=1, help="How often a round annotates them")] = 1,
    peer_images: Annotated[
        int, typer.Option(min=0, help="Images of a peer in a round, grad-cam a fifth; 0: no peers")
    ] = 300,
    threads: Annotated[int, typer.Option(min=1, help="Of the network and of decoding")] = 2,
    to: Annotated[Path | None, typer.Option(help="Write the figures there, as JSON")] = None,
) -> None:
    """Milliseconds per image: the forward pass, the pipeline, its stages alone, and peers.

    All cases take turns, round by round, so that a busy machine slows all of them alike.
    """
    console = Console()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bench = _prepare(work, images, json.loads(model), copies, threads)
        cases = dict(_forward_cases(bench)) | dict(_own_cases(bench))
        if peer_images:
            cases |= dict(_peer_cases(bench, work, images, peer_images))
        measured: dict[str, list[float]] = {name: [] for name in cases}
        peaks: dict[str, int | None] = {}
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=(repeats + 1) * len(cases))
            for round_number in range(repeats + 1):
                for name, case in cases.items():
                    _forget_peak(bench.classifier.device)
                    start = time.perf_counter()
                    count = case()
                    peaks[name] = _peak(bench.classifier.device)
                    if round_number:  # the first round warms up
                        measured[name].append(1000 * (time.perf_counter() - start) / count)
                    progress.advance(task)
    timings = [
        Timing(
            name,
            values,
            _ratio(measured[PLAIN], values),
            _ratio(measured[PREPARED], values),
            peaks[name],
        )
        for name, values in measured.items()
    ]
    console.print(_table(timings))
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "model": json.loads(model),
            "device": str(bench.classifier.device),
            "precision": bench.classifier.precision,
            "threads": threads,
            "images": bench.images,
            "versions": dict(library_versions()),
            "cases": [asdict(timing) for timing in timings],
        }
        to.write_text(json.dumps(document, indent=1) + "\n")


def _prepare(work: Path, images: Path, model: dict[str, Any], copies: int, threads: int) -> _Bench:
    repeated, packed = work / "images", work / "packed"
    repeated.mkdir()
    for copy in range(copies):
        for path in images.iterdir():
            if path.suffix.lower() in JPEG_SUFFIXES:
                shutil.copy(path, repeated / f"{copy}-{path.name}")
    # Of the size that `cambox pack` makes: the last batches of a shard do not fill all threads.
    pack(repeated, packed)
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
    return _Bench(config, LocalEngine(config), shards, count, threads)


def _forward_cases(bench: _Bench) -> Iterator[tuple[str, Work]]:
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
            ready = classifier.normalised(pixels)
            lanes = [lane.classifier for lane in annotator.lanes]

            def forward(lane: int) -> int:
                count = 0
                precision = getattr(torch, classifier.precision)
                on = classifier.precision != "float32"
                with torch.inference_mode(), torch.autocast(device.type, precision, enabled=on):
                    while count < bench.images // len(lanes):
                        lanes[lane].module(ready[count % 64 : count % 64 + batch])
                        count += batch
                    _finish(device)
                return count

            return sum(annotator.lane_pool.map(forward, range(len(lanes))))

    yield PREPARED, forward_prepared


def _own_cases(bench: _Bench) -> Iterator[tuple[str, Work]]:
    def end_to_end() -> int:
        shutil.rmtree(bench.config.output.uri, ignore_errors=True)
        outcomes = bench.engine.annotate(bench.shards, _Nobody())
        failed = [outcome for outcome in outcomes if not isinstance(outcome, ShardReport)]
        if failed:
            raise RuntimeError(f"a shard was given up: {failed[0]}")
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


def _peer_cases(bench: _Bench, work: Path, images: Path, count: int) -> Iterator[tuple[str, Work]]:
    name = bench.config.model.name
    if name not in LAYERS:
        raise RequestError(f"--model: peers are told layers by name, known of {', '.join(LAYERS)}")
    size = bench.classifier.preprocessing
    for peer in PEERS:
        network = PeerNetwork(
            build_network(bench.config.model).module.to(bench.classifier.device),
            *LAYERS[name],
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


class _Nobody:
    """Watches no run."""

    def advance(self, progress: object) -> None:
        """Nothing."""

    def finished(self, outcome: object) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _ratio(forward: Sequence[float], values: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(forward, values, strict=True))


def _table(timings: Sequence[Timing]) -> Table:
    table = Table("case", "ms per image", "from", "to", "plain / case", "prepared / case")
    for timing in timings:
        values = (
            statistics.median(timing.milliseconds),
            min(timing.milliseconds),
            max(timing.milliseconds),
            timing.to_plain,
            timing.to_prepared,
        )
        table.add_row(timing.case, *(f"{value:.2f}" for value in values))
    return table
