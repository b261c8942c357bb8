"""Whole runs with each way to run the forward pass: their speed, and rows beside the eager ones."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.common import config_of, packed
from bench.gpu.files import DRY, PHOTOS, WORK
from bench.gpu.likeness import likeness, read_rows
from bench.gpu.step import MOBILENET, RESNET, SMALL, SWIN, Step, on_gpu, seconds_left
from bench.workers import observed_run

# Of one run: to load the model, annotate all and compare; a compiler takes as long again.
SECONDS, SECONDS_TO_COMPILE = 10, 20


def ways(times: int) -> None:
    """Annotate the photographs so often with each model and each ``model.compile``.

    Batches have one size, so that only the way differs; ``until_ready`` has the preparation in it.
    """
    step = Step("ways")
    shards = packed(PHOTOS, WORK / "ways", 552, times)
    # A CPU has no graphs.
    others = ("graph", "inductor") if on_gpu() else ("inductor",)
    models = (SMALL,) if DRY else (RESNET, SWIN, MOBILENET)
    # What compiles comes last, as it takes most of the time.
    for way, model in itertools.product(("eager", *others), models):
        if seconds_left() > SECONDS + (SECONDS_TO_COMPILE if way == "inductor" else 0):
            step.part(f"{model}, {way}", _run, shards, model, way)
            if way != "eager":
                step.part(f"{model}, rows: {way} beside eager", _beside, model, way)


def _run(shards: str, model: str, way: str) -> dict[str, Any]:
    config = config_of(
        shards,
        _output(model, way),
        {"name": model, "compile": way} | ({"input_size": 64} if DRY else {}),
        cam={"min_probability": 0},
        output={"store_maps": True},
        engine={"batch_size": 4 if DRY else 256},
    )
    run = observed_run(config)
    files = (pq.read_schema(path).metadata for path in _output(model, way).rglob("shard*.parquet"))
    # Empty: not compiled, or taken back.
    said = {footer.get(b"cambox.forward", b"").decode() for footer in files}
    return vars(run) | {"files say": sorted(said)}


def _beside(model: str, way: str) -> dict[str, Any]:
    return likeness(*(read_rows(_output(model, one)) for one in (way, "eager")))


def _output(model: str, way: str) -> Path:
    return WORK / "out" / f"ways-{model}-{way}"
