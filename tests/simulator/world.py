"""The product's own code with another world around it: its storage, clocks, processes and threads.

What is replaced is what has no place in a simulation: real time, real threads, the network that
makes rows (``engine``), the report. Planning, handing-out, publishing, manifests, leases,
verification, ``latest`` and pruning are the product's.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

from cambox.config import Config

from . import remembered
from .clock import Chore, Clock, Process
from .engine import Engine
from .store import Store


class _Silent:
    """A console, a display and the steps of one, for nobody."""

    is_terminal = False
    seconds = 1.0

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def print(self, *_: object, **__: object) -> None:
        """Nobody reads it."""

    def step(self, _: str) -> Callable[[int], None]:
        """Nobody looks."""
        return lambda count: None

    advance = finished = note = print


class _InTurn:
    """A pool whose one thread is the caller's."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> _InTurn:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, fn: Callable[..., Any], *items: Iterable[Any]) -> list[Any]:
        """One after another."""
        return list(map(fn, *items))


def _threading_of(clock: Clock) -> SimpleNamespace:
    """For the lease: its thread is what the process does once a minute."""

    class Event:
        def __init__(self) -> None:
            self.passes = 0
            self.seconds = 0.0

        def wait(self, seconds: float) -> bool:
            self.seconds, self.passes = seconds, self.passes + 1
            return self.passes % 2 == 1

        def set(self) -> None:
            """Its chore ends with the thread that is joined."""

    class Thread:
        def __init__(self, target: Callable[[], None], **_: object) -> None:
            self.chore: Chore | None = None
            self.target = target

        def start(self) -> None:
            event = next(
                cell.cell_contents
                for cell in self.target.__closure__ or ()  # type: ignore[attr-defined]
                if isinstance(cell.cell_contents, Event)
            )
            self.target()  # stops at its first wait, which says how long it is

            def once() -> bool:
                event.passes = 1
                self.target()
                # It has come back to its wait, or has given up.
                return event.passes == 3

            self.chore = Chore(event.seconds, clock.seconds + event.seconds, once)
            assert clock.current is not None
            clock.current.every.append(self.chore)

        def join(self) -> None:
            process = clock.current
            if process is not None and self.chore in process.every:
                process.every.remove(self.chore)

    return SimpleNamespace(Event=Event, Thread=Thread)


def _datetime_of(clock: Clock) -> type[datetime]:
    class Simulated(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return clock.now().astimezone(tz or UTC)

    return Simulated


@contextmanager
def replaced(
    clock: Clock, store: Store, processes: Sequence[Process], engine: Callable[[Config], Engine]
) -> Iterator[None]:
    """Let the product's code live in the simulation."""
    simulated = _datetime_of(clock)
    lease = "cambox.output.lease"

    def url_to_fs(uri: str, **_: object) -> tuple[Store, str]:
        return store, store._strip_protocol(uri)

    def is_alive(number: int) -> bool:
        return any(one.number == number and not (one.dead or one.ended) for one in processes)

    generator = random.Random(clock.chance.random())
    replacements: dict[str, object] = {
        "cambox.sources.storage.fsspec.core.url_to_fs": url_to_fs,
        "tenacity.wait.random": generator,
        "tenacity.nap.time": SimpleNamespace(sleep=clock.sleep),
        f"{lease}.threading": _threading_of(clock),
        f"{lease}.datetime": simulated,
        f"{lease}._machine": lambda: clock.current.machine if clock.current else "",
        f"{lease}._is_alive": is_alive,
        f"{lease}.secrets.token_hex": lambda size: f"{generator.getrandbits(8 * size):x}",
        f"{lease}.os.getpid": lambda: clock.current.number if clock.current else 0,
        f"{lease}.getpass.getuser": lambda: "somebody",
        "cambox.planned.datetime": simulated,
        "cambox.nightly.night.datetime": simulated,
        "cambox.nightly.report.datetime": simulated,
        "cambox.nightly.night.Steps": _Silent,
        "cambox.nightly.night.publish_report": lambda report, output: "",
        "cambox.nightly.night.print_summary": lambda summary, console: None,
        "cambox.engines.display.RunDisplay": _Silent,
        "cambox.run._loaded": lambda config, key, console: engine(config),
        "cambox.run.recipe_key": lambda config: None,
        **remembered.REPLACEMENTS,
    }
    for module in (
        *("output.commit", "output.known_file", "output.reading", "output.snapshot"),
        *("verify.verify", "sources.listing"),
    ):
        replacements[f"cambox.{module}.ThreadPoolExecutor"] = _InTurn
    with _patched(replacements):
        yield


@contextmanager
def at_full_speed(number: int = 0) -> Iterator[None]:
    """Around many histories, for speed alone: no log, and one core.

    Telling all loggers takes a while, and threads that take turns are half as fast where each wakes
    on another core.

    Args:
        number: of the process, where several run histories.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {sorted(cores)[number % len(cores)]})
    try:
        yield
    finally:
        logging.disable(before)
        if cores:
            os.sched_setaffinity(0, cores)


@contextmanager
def _patched(replacements: dict[str, object]) -> Iterator[None]:
    places = [(*_place(name), value) for name, value in replacements.items()]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    try:
        for owner, name, value in places:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


@cache
def _place(name: str) -> tuple[Any, str]:
    owner, _, last = name.rpartition(".")
    return resolve_name(owner), last


SILENT: Any = _Silent()
