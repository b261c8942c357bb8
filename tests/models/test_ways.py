"""A forward pass as one operation gives the scores of many, or is taken back."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cambox.config import ModelSettings
from cambox.engines.local import LocalEngine
from cambox.engines.worker import local_device, make_annotator
from cambox.models import ways
from cambox.models.classifier import Classifier, Precision, Scores
from cambox.models.fixed import FixedBatch, images_for, sizes_of
from cambox.models.inductor import keep_what_is_compiled
from cambox.models.last_layer import with_last_layer
from cambox.models.load import load_classifier, with_class_size
from cambox.models.middle import with_middle_layers
from cambox.models.ways import pays, prepared
from cambox.run import annotate
from conftest import ConfigMaker
from played_cuda import Operations, PlayedCuda, PlayedGraph, play

SMALL = ModelSettings(
    name="test_resnet", kwargs={"stem_type": "", "avg_down": False}, input_size=64
)
Compiled = Callable[[Classifier, int], Callable[[torch.Tensor], Scores]]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedCuda:
    """As if there were a GPU that records graphs."""
    return play(monkeypatch)


def everything(device: torch.device | None = None, precision: Precision = "float32") -> Classifier:
    """With middle layers, another size for the classes, and in float32 what the last layer sees."""
    name = "mobilenetv2_050"
    settings = ModelSettings(name=name, input_size=64)
    classifier = load_classifier(settings, device or torch.device("cpu"), precision)
    classifier = with_middle_layers(classifier, 2)
    if precision == "float32":
        # Found by its scores, which 16 bits round too much.
        classifier = with_last_layer(classifier, name)
    return with_class_size(classifier, 96, name)


def noise(count: int, seed: int = 0, size: int = 64) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def assert_alike(found: Scores, expected: Scores, share: float = 1e-4) -> None:
    assert len(found.tensors()) == len(expected.tensors())
    for one, other in zip(found.tensors(), expected.tensors(), strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= share * float(other.max() - other.min())


def eager(classifier: Classifier, count: int) -> Callable[[torch.Tensor], Scores]:
    """In place of compiling."""
    return classifier.scores_of


# --- a batch of one size


def test_a_smaller_batch_is_padded_and_what_was_given_stays() -> None:
    classifier = load_classifier(SMALL)
    seen: list[int] = []
    same = torch.empty(0)

    def run(pixels: torch.Tensor) -> Scores:
        nonlocal same
        seen.append(len(pixels))
        scores = classifier.scores_of(pixels)
        # As a graph does: into the same memory each time.
        same = same.resize_(scores.logits.shape).copy_(scores.logits)
        return Scores(scores.feature_map, same)

    batch = FixedBatch(run, images_for(classifier, 5))
    with torch.inference_mode():
        given = [batch(torch.from_numpy(noise(count, count))) for count in (5, 3, 1, 4)]
    assert seen == [5] * 4
    for count, found in zip((5, 3, 1, 4), given, strict=True):
        assert_alike(found, classifier.scores(noise(count, count)), 1e-5)


def test_sizes_are_halved_down_to_a_quarter() -> None:
    for count in (1, 2, 3, 16, 100, 512):
        sizes = sizes_of(count)
        assert sizes[0] == count
        assert sizes == sorted(set(sizes), reverse=True)
        assert sizes[-1] == -(-count // 4)
        # What is padded is less than what is not, from a quarter on.
        assert all(larger <= 2 * smaller for larger, smaller in itertools.pairwise(sizes))


# --- graphs, on a played GPU


def test_a_played_graph_knows_addresses_only() -> None:
    """What the tests below rest on: results are overwritten, and Python is not run again."""
    given, factor = torch.ones(3), 2.0
    graph = PlayedGraph()
    with graph.recorded:
        made = (given * factor).view(3, 1).add_(1)
    factor = 5.0
    assert made.flatten().tolist() == [3, 3, 3]
    given[:] = torch.tensor([1.0, 2.0, 3.0])
    graph.replay()
    assert made.flatten().tolist() == [3, 5, 7]
    for waits in (lambda: given.sum().item(), lambda: given.new_tensor([1.0])):
        with pytest.raises(RuntimeError, match="capturing"), graph.recorded:
            waits()


def test_graphs_give_the_scores_of_the_eager_pass(played: PlayedCuda) -> None:
    classifier = everything()
    lanes = prepared(classifier.copies(2), "graph", 6)
    assert [lane.quick.way for lane in lanes if lane.quick] == ["graph"] * 2
    # Each lane has graphs of its own, of several sizes, which share its memory and stream.
    assert len(played.graphs) == 2 * len(sizes_of(6)) == 6
    for owned in (played.streams, played.pools):
        assert len({id(one) for one in owned[:3]}) == len({id(one) for one in owned[3:]}) == 1
        assert owned[0] is not owned[3]
    counts = [6, 1, 2, 5, 6, 3]
    found = [lanes[place % 2].scores(noise(count, place)) for place, count in enumerate(counts)]
    for place, count in enumerate(counts):
        assert_alike(found[place], classifier.scores(noise(count, place)), 1e-5)
        assert len(found[place].middle) == 2
        assert found[place].last_input is not None


def test_a_batch_is_one_replay_and_a_few_copies(played: PlayedCuda) -> None:
    (lane,) = prepared([everything()], "graph", 4)
    before = [graph.replays for graph in played.graphs]
    with Operations() as outside:
        found = lane.scores(noise(3))
    replays = [graph.replays - was for graph, was in zip(played.graphs, before, strict=True)]
    assert replays == [1, 0, 0]
    # The eager pass has all of these operations.
    assert len(played.graphs[0].recorded.calls) > 100
    assert outside.names.count("clone") == len(found.tensors())
    assert outside.names.count("copy_") == 1
    assert set(outside.names) == {"lift_fresh", "copy_", "slice", "clone"}  # the first: from numpy


def test_larger_batches_and_other_sizes_run_as_before(played: PlayedCuda) -> None:
    classifier = load_classifier(SMALL)
    (lane,) = prepared([classifier], "graph", 2)
    before = sum(graph.replays for graph in played.graphs)
    assert_alike(lane.scores(noise(3)), classifier.scores(noise(3)))
    assert lane.at(32, 96).quick is None
    assert sum(graph.replays for graph in played.graphs) == before


def test_a_pass_that_waits_for_the_gpu_stays_as_it_was(
    played: PlayedCuda, caplog: pytest.LogCaptureFixture
) -> None:
    classifier = load_classifier(SMALL)
    plain = classifier.module.forward_features

    def waiting(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = plain(images)
        return features * (1 if float(features.sum()) < 1e9 else 2)

    assert classifier.split is not None
    object.__setattr__(classifier.split, "backbone", waiting)
    lanes = prepared([classifier], "auto", 2)
    assert [lane.quick for lane in lanes] == [None]
    assert "model.compile: the forward pass stays as it was, as graph did not work" in caplog.text
    assert "not permitted when stream is capturing" in caplog.text


@pytest.mark.parametrize("fits", [0, 2, 5])
def test_without_memory_for_all_graphs_all_copies_run_as_before(
    fits: int, played: PlayedCuda, caplog: pytest.LogCaptureFixture
) -> None:
    played.fits = fits
    lanes = prepared(load_classifier(SMALL).copies(2), "auto", 8, 10**12)
    assert [lane.quick for lane in lanes] == [None] * 2
    assert "as graph did not work: CUDA out of memory" in caplog.text


def test_what_would_wait_is_told_before_it_is_recorded(
    played: PlayedCuda, caplog: pytest.LogCaptureFixture
) -> None:
    classifier = load_classifier(SMALL)
    plain = classifier.module.forward_features

    def waiting(images: torch.Tensor) -> torch.Tensor:
        if played.waits == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        features: torch.Tensor = plain(images)
        return features

    assert classifier.split is not None
    object.__setattr__(classifier.split, "backbone", waiting)
    assert [lane.quick for lane in prepared([classifier], "graph", 2)] == [None]
    assert "called a synchronizing CUDA operation" in caplog.text
    assert played.graphs == []
    assert played.waits == 0


def test_no_kernels_are_needed_for_other_sizes_than_those_that_are_recorded(
    played: PlayedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each size of batch a library may take seconds."""
    plain, counts = Classifier.scores_of, set()

    def scores_of(self: Classifier, pixels: torch.Tensor) -> Scores:
        counts.add(len(pixels))
        return plain(self, pixels)

    monkeypatch.setattr(Classifier, "scores_of", scores_of)
    lanes = prepared(load_classifier(SMALL).copies(2), "graph", 12)
    assert all(lane.quick for lane in lanes)
    assert counts == {12, 6, 3}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["graph", "inductor"])
def test_on_a_real_gpu(way: ways.Wanted, precision: Precision) -> None:
    classifier = everything(local_device(), precision)
    lanes = prepared(classifier.copies(2), way, 6)
    assert [lane.quick.way for lane in lanes if lane.quick] == [way] * 2
    found = [lanes[place % 2].scores(noise(count, place)) for place, count in enumerate((6, 1, 5))]
    for place, count in enumerate((6, 1, 5)):
        share = 1e-4 if precision == "float32" else 0.05
        assert_alike(found[place], classifier.scores(noise(count, place)), share)


# --- compiled


def test_compiled_on_a_cpu_it_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        pytest.skip("needs a C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.set_num_threads(1)
    # With attention and norms; of one block, as each kernel takes the compiler seconds.
    kwargs = {"depth": 1, "global_pool": "avg", "class_token": False}
    network = load_classifier(ModelSettings(name="test_vit", kwargs=kwargs))
    classifier = with_last_layer(network, "test_vit")
    lanes = prepared(classifier.copies(2), "inductor", 4)
    assert [lane.quick.way for lane in lanes if lane.quick] == ["inductor"] * 2, caplog.text
    assert list(tmp_path.rglob("*.cpp"))
    batches = [noise(count, place, 160) for place, count in enumerate((4, 4, 3, 1, 4, 2))]
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # Each lane in a thread of its own, at the same time.
        halves = pool.map(lambda place: list(map(lanes[place].scores, batches[place::2])), (0, 1))
        found = [scores for pair in zip(*halves, strict=True) for scores in pair]
    for scores, batch in zip(found, batches, strict=True):
        assert_alike(scores, classifier.scores(batch))
        assert scores.last_input is not None


def test_what_is_compiled_is_kept_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As importing timm leaves it.
    for ours in (f"{tempfile.gettempdir()}/torchinductor_somebody", ""):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", ours)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        keep_what_is_compiled()
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cambox" / "compiled")
        assert (tmp_path / "cambox" / "compiled").is_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "named"))
    keep_what_is_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "named")


class Liar:
    """In place of what compiles: it gives other scores, or none."""

    def __init__(self, lie: str) -> None:
        self.lie = lie

    def __call__(self, classifier: Classifier, count: int) -> Callable[[torch.Tensor], Scores]:
        if self.lie == "raises":
            raise LookupError("no compiler was found")
        if self.lie == "no memory":
            raise torch.OutOfMemoryError("CUDA out of memory")

        def run(pixels: torch.Tensor) -> Scores:
            scores = classifier.scores_of(pixels)
            feature_map, logits = (tensor.clone() for tensor in scores.tensors()[:2])
            if self.lie == "one logit":
                logits[0, 5] += 2e-4 * (logits.max() - logits.min())
            if self.lie == "one cell":
                feature_map[0, 3, 1, 1] += 2e-4 * (feature_map.max() - feature_map.min())
            if self.lie == "not a number":
                logits[0, 0] = torch.nan
            if self.lie == "another image":
                logits = logits.roll(1, 0)
            return Scores(feature_map, logits)

        return run


@pytest.mark.parametrize(
    "lie", ["raises", "no memory", "one logit", "one cell", "not a number", "another image"]
)
def test_what_lies_or_fails_is_taken_back(
    lie: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ways, "compiled", Liar(lie))
    classifier = load_classifier(SMALL)
    lanes = prepared(classifier.copies(2), "inductor", 2)
    assert [lane.quick for lane in lanes] == [None] * 2
    assert "model.compile: the forward pass stays as it was, as inductor" in caplog.text
    if lie == "raises":
        assert "no compiler was found" in caplog.text


def test_who_tells_the_truth_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "compiled", Liar("none"))
    assert all(lane.quick for lane in prepared([load_classifier(SMALL)], "inductor", 2))


@pytest.mark.parametrize(("share", "kept"), [(0.5, True), (8.0, False)])
def test_in_16_bits_as_much_may_move_as_the_precision_moves(
    share: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in goes on from float32, in the direction of what rounding does."""

    def compiled(classifier: Classifier, count: int) -> Callable[[torch.Tensor], Scores]:
        exact = load_classifier(SMALL, module=classifier.module)

        def run(pixels: torch.Tensor) -> Scores:
            rounded, best = (one.scores_of(pixels) for one in (classifier, exact))
            both = zip(rounded.tensors(), best.tensors(), strict=True)
            return rounded.with_tensors([one + share * (other - one) for one, other in both])

        return run

    monkeypatch.setattr(ways, "compiled", compiled)
    (lane,) = prepared([load_classifier(SMALL, precision="bfloat16")], "inductor", 2)
    assert (lane.quick is not None) is kept


# --- the choice


class Clock:
    """Time passes only where a network is played to take it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("images", "share", "compiled_seconds", "way"),
    [
        # 0.04 s a batch of 4: compiling pays from 12,000 images of a GPU on.
        (11_000, 1, 0.02, "graph"),
        (13_000, 1, 0.02, "inductor"),
        (13_000, 1, 0.0395, "graph"),
        (13_000, 1, 0.08, "graph"),
        (None, 1, 0.02, "graph"),
        (10_000, 1, 0.02, "graph"),
        (10_000, 0.25, 0.02, "inductor"),
        (9_999, 0.25, 0.02, None),
    ],
)
def test_compiled_only_where_the_run_is_long_and_it_is_quicker(
    images: int | None,
    share: float,
    compiled_seconds: float,
    way: str | None,
    played: PlayedCuda,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    compiling: list[int] = []
    # The graphs of full batches: of the pass as it is, and then of the compiled one.
    full: dict[int, float] = {}
    plain_replay = PlayedGraph.replay

    def replay(graph: PlayedGraph) -> None:
        clock.now += full.get(played.graphs.index(graph), 0.0)
        plain_replay(graph)

    def compiled(classifier: Classifier, count: int) -> Callable[[torch.Tensor], Scores]:
        compiling.append(count)
        clock.now += 30
        full[len(played.graphs)] = compiled_seconds
        return classifier.scores_of

    full[0] = 0.04
    monkeypatch.setattr(PlayedGraph, "replay", replay)
    monkeypatch.setattr(ways, "compiled", compiled)
    (lane,) = prepared([load_classifier(SMALL)], "auto", 4, images, share, clock)
    assert (lane.quick and lane.quick.way) == way
    assert bool(played.graphs) == (way is not None)
    # Nor is it tried where it would not pay.
    assert compiling == ([4] if images == 13_000 or way == "inductor" else [])


def test_a_longer_run_and_a_slower_network_pay() -> None:
    # An H200's ResNet-50: 13,530 images/s, half of it saved is a minute after 1.6 million images.
    assert not pays(512 / 13_530, 512, 1_600_000)
    assert pays(512 / 13_530, 512, 1_650_000)


@pytest.mark.parametrize("wanted", ["auto", "eager"])
def test_on_a_cpu_nothing_is_prepared_unless_it_is_asked_for(
    wanted: ways.Wanted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ways, "compiled", Liar("raises"))
    lanes = load_classifier(SMALL).copies(2)
    assert all(a is b for a, b in zip(prepared(lanes, wanted, 4, 10**12), lanes, strict=True))
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "wanted", "reason"),
    [
        ({"name": "test_vit", "input_size": 160}, "inductor", "need the graph of its gradients"),
        ({"name": "test_resnet", "input_size": 64}, "graph", "this worker has no GPU"),
    ],
)
def test_what_cannot_be_is_said(
    settings: dict[str, Any],
    wanted: ways.Wanted,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (lane,) = prepared([load_classifier(ModelSettings(**settings))], wanted, 4)
    assert lane.quick is None
    assert f"model.compile: {wanted} is left out" in caplog.text
    assert reason in caplog.text


# --- a run


def test_files_say_that_they_were_compiled_and_the_recipe_is_the_same(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ways, "compiled", eager)
    files: dict[str, list[Any]] = {}
    for wanted in ("eager", "auto", "inductor"):
        to = tmp_path / wanted
        summary = annotate(make_config(f"model.compile={wanted}", f"output.uri={to}"))
        assert summary.complete
        files[wanted] = [pq.read_table(path) for path in sorted(to.rglob("shard*.parquet"))]
        assert len(files[wanted]) == 3
    (folder,) = {path.parent.name for path in tmp_path.glob("*/*/shard*.parquet")}
    assert folder
    for wanted, tables in files.items():
        said = {table.schema.metadata.get(b"cambox.forward") for table in tables}
        assert said == ({b"inductor"} if wanted == "inductor" else {None})
    for off, auto in zip(files["eager"], files["auto"], strict=True):
        assert off.equals(auto, check_metadata=True)


def test_looks_of_any_size_are_not_prepared(
    make_config: ConfigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(
        *("model.compile=inductor", "model.input_size=null", "cam.zoom={sides: [64]}")
    )
    engine = LocalEngine(config)
    with closing(make_annotator(config, engine.model, 1)) as annotator:
        assert annotator.lanes[0].classifier.quick is None
    assert "model.compile: inductor is left out, as cam.zoom" in caplog.text
