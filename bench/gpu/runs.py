"""Whole runs: the precise recipe, actors of Ray, and one that the GPU's memory does not hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from bench.cases import Bench, finish, forward_cases, own_cases
from bench.common import packed
from bench.gpu.files import DRY, REPEATED, RESULTS, WORK
from bench.gpu.likeness import likeness, read_rows
from bench.gpu.step import (
    BEGUN,
    MOBILENET,
    RESNET,
    SECONDS,
    SMALL,
    SWIN,
    Step,
    annotate,
    on_gpu,
    own_config,
    seconds_left,
)
from bench.throughput import measure
from bench.workers import engines, observed_run
from cambox.config import Config
from cambox.config_file import load_config
from cambox.engines.local import LocalEngine
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.threads import usable_cpus

GIB = 2**30
# Model, recipe, workers, who decodes, and how: model.compile, and whether with NVIDIA's service
# that lets processes compute at once (MPS) instead of in turns; what matters most first.
CASES = (
    (RESNET, "default", "eight", "cpu", "graph"),
    (RESNET, "default", "eight", "gpu", "graph"),
    (MOBILENET, "default", "eight", "cpu", "graph"),
    (RESNET, "precise", "eight", "cpu", "graph"),
    (SWIN, "default", "eight", "cpu", "graph"),
    (MOBILENET, "default", "eight", "gpu", "graph"),
    (SWIN, "default", "eight", "gpu", "graph"),
    (RESNET, "default", "eight", "gpu", "graph, MPS"),
    (RESNET, "precise", "eight", "gpu", "graph"),
    (RESNET, "default", "eight", "gpu", "eager"),
    (RESNET, "default", "four", "cpu", "graph"),
    (RESNET, "default", "four", "gpu", "graph"),
)
CASES_ON_CPU = (
    (SMALL, "default", "two", "cpu", "eager"),
    (RESNET, "precise", "two", "cpu", "eager"),
    (SMALL, "default", "local", "cpu", "eager"),
)
# To start, which takes most of it, and to annotate.
SECONDS_OF_ACTORS, SECONDS_OF_ONE = 40, 9


def precise(copies: int, repeats: int) -> None:
    """The cases of ``bench throughput`` with the precise recipe, and its passes and maps alone."""
    threads = usable_cpus()
    torch.set_num_threads(threads)
    shards = packed(REPEATED, WORK / "bench" / "precise", 1000, copies)
    bench = Bench.of(_precise(shards, {"cpus_per_worker": threads}))
    cases = dict(forward_cases(bench)) | dict(own_cases(bench))
    classifier, batch = bench.classifier, bench.annotator.batch_size
    size = classifier.preprocessing
    images = np.random.default_rng(0).integers(
        0, 256, (batch, size.height, size.width, 3), dtype=np.uint8
    )
    maker = MapMaker(bench.config.cam, classifier)
    times = max(1, bench.images // batch // 2)

    @torch.inference_mode()
    def passes(with_maps: bool) -> int:
        for _ in range(times):
            scores = classifier.scores(images)
            if with_maps:
                maker.maps(scores, scores.logits.topk(5).indices).cpu()
        finish(classifier.device)
        return times * batch

    cases |= {
        "both passes alone": lambda: passes(False),
        "both passes and maps alone": lambda: passes(True),
    }
    measure(bench, cases, repeats, RESULTS / "throughput-precise.json", BEGUN + SECONDS - 3)


def actors(times: int) -> None:
    """Several workers that share the GPU and its CPUs, with JPEGs decoded by either.

    Beside them this process alone, with fewer threads and with all.
    """
    os.environ.setdefault("RAY_ADDRESS", "local")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    step = Step("ray")
    shards = packed(REPEATED, WORK / "ray", 552, times)
    settings = engines(usable_cpus(), on_gpu())
    for model, recipe, workers, decoder, how in CASES if on_gpu() else CASES_ON_CPU:
        if seconds_left() > SECONDS_OF_ACTORS:
            engine, way = settings[workers], how.partition(",")[0]
            config = (
                _precise(shards, engine, decoder, way)
                if recipe == "precise"
                else own_config(shards, model, way, engine=engine, input={"decoder": decoder})
            )
            what = f"{model}, {recipe}, {workers}, JPEGs by the {decoder.upper()}, {how}"
            with _computing_at_once() if "MPS" in how else nullcontext():
                step.part(what, _observed, config)
    few = packed(REPEATED, WORK / "few", 552, max(8, times // 8))
    for threads in sorted({max(1, usable_cpus() // 4), usable_cpus() // 2, usable_cpus()}):
        if seconds_left() > SECONDS_OF_ONE:
            config = own_config(few, SMALL if DRY else RESNET, engine={"cpus_per_worker": threads})
            what = f"this process, {threads} threads"
            step.part(what, _observed, config)


def _observed(config: Config) -> dict[str, Any]:
    return vars(observed_run(config))


@contextmanager
def _computing_at_once() -> Iterator[None]:
    """NVIDIA's Multi-Process Service, for processes that begin within it, where there is one."""
    control = "nvidia-cuda-mps-control"
    begun = shutil.which(control) is not None and not subprocess.run([control, "-d"]).returncode
    print(f"MPS: {begun}", flush=True)
    try:
        yield
    finally:
        if begun:
            subprocess.run([control], input="quit\n", text=True, timeout=30)


def _precise(
    shards: str, engine: Mapping[str, Any], decoder: str = "cpu", way: str = "auto"
) -> Config:
    """The precise recipe with a network of random weights."""
    wanted = {
        "input.shards": f"[{shards}]",
        "input.decoder": decoder,
        "model.name": RESNET,
        "model.compile": way,
        "model.pretrained": "false",
        "cam.min_probability": "0",
        "output.uri": str(WORK / "out" / f"precise-{time.monotonic_ns()}"),
    }
    wanted |= {f"engine.{key}": str(value) for key, value in engine.items()}
    if DRY:
        wanted |= {"model.input_size": "64", "model.class_input_size": "32"}
    return load_config("precise", [f"{key}={value}" for key, value in wanted.items()])


def memory(times: int) -> None:
    """A batch that the GPU cannot hold: the rows beside those of batches that it can."""
    step = Step("memory")
    shards = packed(REPEATED, WORK / "memory", 2000, times)
    large = 8 if DRY else 1024
    rows: dict[str, Any] = {}

    def run(key: str, batch: int, scarce: bool = False) -> dict[str, Any]:
        config = own_config(
            shards,
            SMALL if DRY else RESNET,
            output={"store_maps": True},
            engine={"batch_size": batch},
        )
        engine = LocalEngine(config)
        with _little_memory() if scarce else nullcontext():
            reports = annotate(engine)
        rows[key] = read_rows(Path(config.output.uri))
        return {
            "rows": len(rows[key]),
            "halved to": [report.halved_to for report in reports if report.halved_to],
            "seconds of shards": [round(report.seconds, 2) for report in reports],
        }

    told = step.part("too large", run, "scarce", large, True)
    step.part("the same batch with room", run, "room", large)
    halved = min(told.get("halved to") or [large // 2])
    step.part("batches of the halved size", run, "halved", halved)
    step.part("halved, again", run, "again", halved)
    for one, other in (("scarce", "halved"), ("scarce", "room"), ("halved", "again")):
        step.part(
            f"rows: {one} beside {other}",
            lambda one, other: likeness(rows[one], rows[other]),
            one,
            other,
        )


@contextmanager
def _little_memory() -> Iterator[None]:
    """All but 2.5 GiB of the GPU taken; on a CPU more than three images do not fit."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        taken = torch.cuda.mem_get_info()[0] - int(2.5 * GIB)
        ballast = torch.empty(taken, dtype=torch.uint8, device="cuda")
        try:
            yield
        finally:
            del ballast
            torch.cuda.empty_cache()
        return
    plain: Callable[..., Any] = Classifier.scores

    def scores(self: Classifier, images: np.ndarray) -> Any:
        if len(images) > 3:
            raise torch.OutOfMemoryError("made up")
        return plain(self, images)

    with mock.patch.object(Classifier, "scores", scores):
        yield
