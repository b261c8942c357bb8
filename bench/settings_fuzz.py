"""Settings of all kinds, most of them nonsense: ``plan`` ends with 0, 1 or 2 and one line each.

Each is given to the command line in a child process, which is limited in memory and watched: one
that dies, hangs or raises is what is looked for. Ray, which would start a cluster, is never asked.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import resource
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console

import cambox.sources.retry
from bench.settings_cases import SECRET, Case, cases
from cambox.cli import app
from cambox.cli.options import carry_out
from cambox.console import say
from cambox.sources.pack import pack

SECONDS = 10.0
"""Of a CPU, that one may take; it may wait longer for one on a machine with other work to do."""
PATIENCE = 12
CASES_OF_A_CHILD = 50
MORE_MEMORY = 4 << 30
"""Bytes of addresses that one may take beside what the libraries have."""
# A section of the configuration, or the file of it.
_NAMED = re.compile(r"\b(input|model|cam|boxes|output|engine)\b|config\.yaml|--set")
_CONTROL = re.compile(r"[^\n\t -~\xa0-\U0010ffff]")


@dataclass(frozen=True)
class Ended:
    """How a request ended.

    Attributes:
        outcome: ``exit 0`` and so on, or the name of what is bad.
        said: the last of what it printed.
    """

    case: Case
    outcome: str
    said: str
    seconds: float

    @property
    def is_bad(self) -> bool:
        """Whether a user would be left alone with it."""
        return self.outcome not in ("exit 0", "exit 1", "exit 2")


def prepare(folder: Path) -> None:
    """Make what settings may name: shards, pictures, lists of classes, and what is neither."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    (folder / "images").mkdir()
    Image.fromarray(pixels).save(folder / "images" / "a.jpg")
    pack(folder / "images", folder / "shards")
    (folder / "broken").mkdir()
    files = {
        "broken/config.json": b"{",
        "ten.txt": b"\n".join(b"class %d" % number for number in range(10)),
        "odd.txt": b"\n".join(b"\x1b[31m%d\x07" % number for number in range(10)),
        "nul.txt": b"\n".join(b"a\0%d" % number for number in range(10)),
        "bytes.txt": bytes(range(256)),
        "bytes.csv": b"image,class_index\n" + bytes(range(256)),
        "bad.parquet": b"PAR1",
        "bad.safetensors": b"\xff" * 64,
        "bad.pth": b"\x80\x04.",
        "deep.yaml": b"[" * 100_000,
        "g.yaml": b"dog: [0-4]\ncat: [5, 99999999999999999999]",
        "big.yaml": b"dog: [0-4, 1, 1-1, x]",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)


def fuzz(chosen: Sequence[Case], folder: Path) -> Iterator[Ended]:
    """What becomes of each, in order; a child that dies or hangs costs only the one it was at.

    Args:
        folder: as ``prepare`` has left it.
    """
    # The children have all that is imported here, and what they allocate is gone with them.
    context = multiprocessing.get_context("fork")
    left = list(chosen)
    while left:
        receiving, sending = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(left[:CASES_OF_A_CHILD], folder, sending))
        child.start()
        sending.close()
        for case in left[:CASES_OF_A_CHILD]:
            del left[0]
            if not receiving.poll(PATIENCE * SECONDS):
                child.kill()
                yield Ended(case, "hangs", "", PATIENCE * SECONDS)
                break
            try:
                yield receiving.recv()
            except EOFError:
                child.join()
                yield Ended(case, f"dies with {-(child.exitcode or 0)}", "", 0.0)
                break
        child.join()


def _child(some: Sequence[Case], folder: Path, results: Connection) -> None:
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    cambox.sources.retry.FIRST_PAUSE_SECONDS = 0.001
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, used + MORE_MEMORY))
    for case in some:
        results.send(_ended(case, folder))


def _ended(case: Case, folder: Path) -> Ended:
    path = folder / "config.yaml"
    path.unlink(missing_ok=True)
    if case.file is not None:
        path.write_bytes(case.file)
    settings = [part for override in case.overrides for part in ("--set", override)]
    place = path if case.file is not None else folder
    printed, start = io.StringIO(), time.process_time()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            carry_out(lambda: app(["plan", str(place), *settings], prog_name="cambox"))
            outcome = "exit 0"
        except SystemExit as ended:
            outcome = f"exit {ended.code or 0}"
        except BaseException:  # noqa: BLE001  what is looked for
            outcome = "a traceback"
            printed.write(traceback.format_exc())
    said = printed.getvalue()
    if outcome == "exit 2":
        lines = [line for line in said.splitlines() if line.startswith("cambox: ")]
        if len(lines) != 1 or not said.endswith(f"{lines[0]}\n"):
            outcome = "not one line"
        elif not _NAMED.search(lines[0]) and str(folder) not in lines[0]:
            outcome = "nothing is named"
        elif len(lines[0]) > 5000:
            outcome = "a line without an end"
    if SECRET in said:
        outcome = "tells a secret"
    elif outcome != "a traceback" and _CONTROL.search(said):
        outcome = "controls the terminal"
    seconds = time.process_time() - start
    return Ended(case, outcome if seconds < SECONDS else "is slow", said[-1500:], seconds)


def settings(
    count: Annotated[int, typer.Argument(help="How many")] = 2000,
    seed: Annotated[int, typer.Option(help="Of their choice")] = 0,
) -> None:
    """Give ``cambox plan`` random settings and say how it ends; exit code 1 where it ends badly."""
    console, outcomes, slowest = Console(), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for ended in fuzz(list(cases(seed, count, Path(name))), Path(name)):
            outcomes[ended.outcome] += 1
            slowest = max(slowest, ended.seconds)
            if ended.is_bad:
                say(console, f"{ended.outcome}: {ended.case}", ended.said)
    say(console, f"{dict(sorted(outcomes.items()))}, the slowest {slowest:.1f} s")
    if any(outcome not in ("exit 0", "exit 1", "exit 2") for outcome in outcomes):
        raise typer.Exit(1)
