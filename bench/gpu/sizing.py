"""``cambox bench`` on the GPU: what it says of one worker, to be held beside the step ``ray``."""

from __future__ import annotations

from bench.common import packed
from bench.gpu.files import DRY, REPEATED, WORK
from bench.gpu.step import RESNET, SMALL, Step, run_command


def sizing(seconds: int) -> None:
    """Measure for so long, with each decoder; the report is in the log."""
    step = Step("sizing")
    shards = packed(REPEATED, WORK / "sizing", 552, 8)
    given = {
        "input.shards": f"[{shards}]",
        "model.name": SMALL if DRY else RESNET,
        "model.pretrained": "false",
        "cam.min_probability": "0",
    }
    for decoder in ("cpu",) if DRY else ("cpu", "gpu"):
        settings = [f"{key}={value}" for key, value in (given | {"input.decoder": decoder}).items()]
        command = ["bench", "ray", "--seconds", str(seconds), "--price-per-hour", "4"]
        command += [part for setting in settings for part in ("--set", setting)]
        step.part(f"JPEGs by the {decoder.upper()}", run_command, command)
