"""Drivers in processes of their own, which a test may kill.

They are forked from a process that has imported everything, because a fresh interpreter needs
seconds for that, and dozens of them are killed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from cambox import planned
from cambox.cams.boxes import find_boxes
from cambox.config_cam import BoxSettings
from fault_points import CONSTRUCTOR, Hit, Slow, install

_CONTEXT = multiprocessing.get_context("forkserver")
# What commands import late is named, or each fork would wait for torch.
_CONTEXT.set_forkserver_preload(
    ["cambox.cli", "cambox.run", "cambox.engines.local", "cambox.engines.cluster"]
)


@contextmanager
def driver(
    arguments: list[str], hit: Hit | None, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[ForkServerProcess]:
    """A ``cambox`` that meets a fault in this process, or on Ray in its workers.

    The process it is forked from keeps the environment of its own start, so what has changed since
    has to be said.

    Its exit code is known after ``join``; negative is the signal that ended it.
    """
    process = _CONTEXT.Process(target=_drive, args=(arguments, hit, log, dict(environment or {})))
    process.start()
    try:
        yield process
    finally:
        # Its own process, by its number; SIGKILL also ends one that was stopped.
        process.kill()
        process.join(30)


def drive(
    arguments: list[str], hit: Hit | None, log: Path, environment: Mapping[str, str] | None = None
) -> int | None:
    """Run one to its end and say how it ended."""
    with driver(arguments, hit, log, environment) as process:
        # Nobody is to hang for ever; on a machine that does other things each worker takes long.
        process.join(240)
        return process.exitcode


def faulty_worker(hit: Hit) -> type:
    """A worker class for Ray that meets the fault in its own process."""
    from cambox.engines import actor
    from cambox.engines.cluster import ShardWorker

    class FaultyWorker(ShardWorker):
        def __init__(self, *arguments: Any) -> None:
            install(hit)
            honest = actor.load_model

            def load_model(*of_the_model: Any) -> Any:
                hit(CONSTRUCTOR, "")
                return honest(*of_the_model)

            actor.load_model = load_model
            super().__init__(*arguments)

    return FaultyWorker


def wait_until(happened: Any, what: str, seconds: float = 60) -> None:
    """Wait until a function says yes."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(0.005)


def _drive(arguments: list[str], hit: Hit | None, log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    # Where tests run in a shell's background Ctrl-C is ignored, by them and by whom they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if hit is not None and "ray" in arguments:
        from cambox.engines import cluster

        cluster.ShardWorker = faulty_worker(hit)  # type: ignore[misc, assignment]
    elif hit is not None:
        install(hit)
    if getattr(hit, "without_lease", False):
        planned.held = lambda *_: nullcontext()  # type: ignore[assignment]
    if isinstance(hit, Slow):
        _load_what_comes_late()
    from cambox.cli import main

    sys.argv = ["cambox", *arguments]
    main()


def _load_what_comes_late() -> None:
    """Else most random moments fall into the first shard.

    Compiled code is loaded at the first boxes, and pyarrow imports pandas, where it is installed,
    at the first write: half a second each.
    """
    with suppress(ImportError):
        importlib.import_module("pandas")
    find_boxes(torch.eye(4)[None], (8, 8), BoxSettings())
