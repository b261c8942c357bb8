"""Whole runs: the precise recipe, actors of Ray, and one that the GPU's memory does not hold."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
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
    Step,
    annotate,
    on_gpu,
    own_config,
    seconds_left,
)
from bench.throughput import measure
from bench.workers import engines, observed_run
from cambox.config_file import load_config
from cambox.engines.local import LocalEngine
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.threads import usable_cpus

GIB = 2**30


def precise(copies: int, repeats: int) -> None:
    """The cases of ``bench throughput`` with the precise recipe, and its passes and maps alone."""
    threads = usable_cpus()
    torch.set_num_threads(threads)
    wanted = {
        "input.shards": f"[{packed(REPEATED, WORK / 'bench' / 'precise', 1000, copies)}]",
        "model.name": RESNET,
        "model.pretrained": "false",
        "cam.min_probability": "0",
        "output.uri": str(WORK / "out" / "precise"),
        "engine.cpus_per_worker": threads,
    }
    if DRY:
        wanted |= {"model.input_size": "64", "model.class_input_size": "32"}
    bench = Bench.of(load_config("precise", [f"{key}={value}" for key, value in wanted.items()]))
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
    """As ``bench ray``: one actor with the GPU, several with a part of it, beside this process.

    With JPEGs decoded by the CPUs, and by the GPU.
    """
    os.environ.setdefault("RAY_ADDRESS", "local")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    step = Step("ray")
    shards = packed(REPEATED, WORK / "ray", 552, times)
    settings = engines(usable_cpus(), on_gpu())
    decoders = ("cpu", "gpu") if on_gpu() else ("cpu",)
    for model in (SMALL,) if DRY else (RESNET, MOBILENET):
        for name, decoder in itertools.product(settings, decoders):
            if seconds_left() > 14:
                config = own_config(
                    shards, model, engine=settings[name], input={"decoder": decoder}
                )
                what = f"{model}, {name}, JPEGs by the {decoder.upper()}"
                step.part(what, lambda config: vars(observed_run(config)), config)


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
