"""Rows on the GPU beside rows on the CPU, by the command that users run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench.common import packed
from bench.gpu.files import DRY, PHOTOS, WEIGHTS, WORK
from bench.gpu.likeness import likeness, read_rows
from bench.gpu.step import Step, on_gpu, seconds_left

ON_CPU = 60  # photographs that the CPU annotates too
RECIPES = {
    "resnet50": ["model.pretrained=false", "cam.min_probability=0"],
    "mobilenetv2": [
        "model.pretrained=false",
        f"model.checkpoint={WEIGHTS}",
        "model.kwargs={pad_type: same, bn_eps: 0.001}",
        "model.mean=[0.5, 0.5, 0.5]",
        "model.std=[0.5, 0.5, 0.5]",
    ],
}
# The last decodes JPEGs on the GPU.
WAYS = (("gpu", "bfloat16"), ("gpu", "float32"), ("cpu", "float32"), ("nvjpeg", "float32"))


def sanity() -> None:
    """Annotate in several ways at once, since what they write is asked here and not how fast."""
    step = Step("sanity")
    shards = packed(PHOTOS, WORK / "sanity-shards", 6 if DRY else ON_CPU, 1, WORK / "labels.csv")
    outputs: dict[str, Path] = {}
    running: dict[str, subprocess.Popen[bytes]] = {}
    for recipe in RECIPES:
        for where, precision in WAYS:
            key = f"{recipe} {where} {precision}"
            outputs[key] = WORK / "sanity" / key.replace(" ", "-")
            few = shards.replace("*.tar", "shard-000000.tar")
            if where == "nvjpeg" and (DRY or not on_gpu()):
                continue
            given = few if where == "cpu" else shards
            running[key] = _annotating(recipe, given, outputs[key], where, precision)
    for key, process in running.items():
        step.part(f"exit code, {key}", _ended, process)
    for recipe in RECIPES:
        for one, other in (
            ("gpu bfloat16", "cpu float32"),
            ("gpu float32", "cpu float32"),
            ("gpu bfloat16", "gpu float32"),
            ("nvjpeg float32", "gpu float32"),
        ):
            if f"{recipe} {one}" not in running:
                continue
            pair = [outputs[f"{recipe} {way}"] for way in (one, other)]
            step.part(
                f"{recipe}: {one} beside {other}",
                lambda one, other: likeness(read_rows(one), read_rows(other)),
                *pair,
            )
    if seconds_left() > 15:
        verify = [sys.executable, "-m", "cambox", "verify", str(outputs["resnet50 gpu bfloat16"])]
        step.part(
            "exit code of cambox verify",
            lambda: subprocess.run(verify, timeout=seconds_left()).returncode,
        )


def _annotating(
    recipe: str, shards: str, to: Path, where: str, precision: str
) -> subprocess.Popen[bytes]:
    wanted = [
        *RECIPES[recipe],
        f"input.shards=[{shards}]",
        f"output.uri={to}",
        "output.store_maps=true",
        "cam.classes=both",
        f"model.precision={precision}",
        f"input.decoder={'gpu' if where == 'nvjpeg' else 'cpu'}",
        f"engine.cpus_per_worker={1 if DRY else 4}",
        f"engine.batch_size={4 if DRY else 64}",
    ]
    settings = [part for setting in wanted for part in ("--set", setting)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if where == "cpu" else {}
    return subprocess.Popen(
        [sys.executable, "-m", "cambox", "annotate", f"configs/{recipe}.yaml", *settings],
        env=dict(os.environ) | hidden,
    )


def _ended(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(timeout=max(1, seconds_left() - 6))
    except subprocess.TimeoutExpired:
        process.kill()
        raise
