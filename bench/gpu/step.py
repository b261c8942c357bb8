"""A step of the GPU kit: what it found is written after each part, so that one that is cut off
leaves what it had."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from bench.common import Observed, config_of
from bench.gpu.files import DRY, RESULTS, WORK
from cambox.config import Config
from cambox.engines.local import LocalEngine
from cambox.engines.worker import local_device
from cambox.sources.shards import find_shards

BEGUN = time.monotonic()
SECONDS = float(os.environ.get("STEP_SECONDS", "1000000"))
RESNET, SWIN, MOBILENET = "resnet50", "swin_tiny_patch4_window7_224", "mobilenetv2_100"
SMALL = "test_resnet"


class Step:
    """The parts of one step.

    Attributes:
        found: by part.
        failed: parts of any step of this process that raised an error.
    """

    failed: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: dict[str, Any] = {}

    def part(self, key: str, work: Callable[..., Any], *given: Any) -> Any:
        """Do a part; an error is noted with its traceback, and the next part begun."""
        print(f"--- {self.name}: {key} ({seconds_left():.0f} s left)", flush=True)
        start = time.monotonic()
        try:
            self.found[key] = work(*given)
        except Exception as error:  # noqa: BLE001 (it is what was found)
            traceback.print_exc()
            self.found[key] = {"error": f"{type(error).__name__}: {error}"[:600]}
            self.failed.append(key)
        print(f"    {time.monotonic() - start:.1f} s", flush=True)
        RESULTS.mkdir(parents=True, exist_ok=True)
        part = RESULTS / f"{self.name}.part"
        part.write_text(json.dumps(self.found, indent=1, default=str) + "\n")
        part.rename(RESULTS / f"{self.name}.json")
        return self.found[key]


def seconds_left() -> float:
    """Until this step is cut off."""
    return SECONDS - (time.monotonic() - BEGUN)


def own_config(shards: str, model: str, way: str = "auto", **sections: Any) -> Config:
    """The defaults, with an output of their own; ``way`` is ``model.compile``."""
    output = WORK / "out" / f"{os.getpid()}-{time.monotonic_ns()}"
    return config_of(shards, output, {"name": model, "compile": way}, **sections)


def annotate(engine: LocalEngine) -> list[Any]:
    """Annotate the shards of the engine's configuration; its reports."""
    shards = tuple(find_shards(engine.config.input.shards))
    return list(engine.annotate(shards, Observed()))


def run_command(command: list[str]) -> dict[str, object]:
    """How a command of cambox ends within this step's time, and the end of what it says."""
    start = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "cambox", *command],
        timeout=max(1, seconds_left() - 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(ended.stdout)
    return {
        "exit code": ended.returncode,
        "seconds": round(time.monotonic() - start, 1),
        "last line": (ended.stdout.strip().splitlines() or [""])[-1][:200],
    }


def sync() -> None:
    """Wait for what a GPU still computes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], object], warm: int = 3) -> float:
    """Of one call, waited for; a few calls before are not counted."""
    each = []
    for _ in range(warm + (3 if DRY else 12)):
        sync()
        start = time.perf_counter()
        work()
        sync()
        each.append(time.perf_counter() - start)
    return statistics.median(each[warm:])


def on_gpu() -> bool:
    return local_device().type == "cuda"
