"""The product's own code with another world around it: its storage, clocks, processes and threads.

What is replaced is what has no place in a simulation: real time, real threads, the network that
makes rows, the report. Planning, handing-out, publishing, manifests, leases, verification,
``latest`` and pruning are the product's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

import cambox.nightly.night
import cambox.output.footer
import cambox.output.publish
import cambox.run
import cambox.verify.file
from cambox.annotator import ShardReport
from cambox.boxes import Boxes
from cambox.config import Config
from cambox.engines.worklist import Observer, Outcome, WorkList
from cambox.errors import ShardError
from cambox.output.footer import DIGEST_KEY, Footer, Recipe
from cambox.output.rows import Row, table
from cambox.sources.shards import Shard
from cambox.sources.states import state_of
from cambox.sources.storage import locate
from cambox.threads import STAGES

from .clock import Chore, Clock, Process
from .store import Store

RECIPE = Recipe.of(
    {name: {} for name in ("input", "model", "cam", "boxes", "output")} | {"boxes": {"k": 1}},
    ("cat",),
)
ROOT = "s3://simulated"
SHARD_SECONDS = 120.0


def keys_of(content: bytes) -> list[str]:
    """The samples of a simulated shard, which is a list of them."""
    return [str(key) for key in json.loads(content)]


@cache
def rows_of(uri: str, content: bytes) -> pa.Table:
    """The rows of a shard."""
    rows = [
        Row(key, uri, number, "unreadable", "zero bytes", None, None, None)
        for number, key in enumerate(keys_of(content))
    ]
    return table(rows, Boxes.of([]), RECIPE.class_names, with_maps=False)


class Engine:
    """In place of the networks: shards are read, and their rows published, one after another."""

    recipe = RECIPE

    def __init__(self, config: Config, clock: Clock, deadly: float) -> None:
        self.config, self.clock, self.deadly = config, clock, deadly

    def annotate(self, shards: tuple[Shard, ...], observer: Observer) -> list[Outcome]:
        """Hand out the shards until each has its outcome."""
        work = WorkList(shards, self.config.engine.max_attempts, observer)
        while work.unfinished:
            shard = work.next()
            assert shard is not None
            if self.clock.chance.random() < self.deadly:
                work.lost([shard], "the worker died")
                continue
            self.clock.reading += 1
            try:
                work.finish(self._published(shard))
            except Exception as error:  # noqa: BLE001  as the engines do
                work.failed(shard, error)
            finally:
                self.clock.reading -= 1
        return work.outcomes

    def _published(self, shard: Shard) -> ShardReport:
        filesystem, path = locate(shard.uri)
        content = filesystem.cat_file(path)
        self.clock.sleep(self.clock.chance.random() * SHARD_SECONDS)
        if state_of(shard) != "same":
            raise ShardError("it has changed while it was read")
        rows = rows_of(shard.uri, content)
        uri = cambox.output.publish.publish(
            rows, shard, RECIPE, self.config.output, lambda: state_of(shard) == "same"
        )
        return ShardReport(
            shard, uri, Counter(), 0, Counter(), 0.0, dict.fromkeys(STAGES, 0.0), None
        )


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


_PARQUET: dict[tuple[Any, ...], bytes] = {}
_METADATA: dict[str, Any] = {}
_CHECKED: dict[tuple[Any, ...], Any] = {}
# The real ones, before anything is replaced.
_TO_PARQUET = cambox.output.publish.to_parquet
_PARSED_END = cambox.output.footer._parsed_end
_ROWS = cambox.verify.file._rows
_VERSION = cache(version)


def _remembered(real: Callable[[pa.Table], bytes]) -> Callable[[pa.Table], bytes]:
    def to_parquet(rows: pa.Table) -> bytes:
        key = tuple(sorted(rows.schema.metadata.items())), tuple(rows["key"].to_pylist())
        if key not in _PARQUET:
            _PARQUET[key] = real(rows)
        return _PARQUET[key]

    return to_parquet


def _checked_once(real: Callable[..., Any]) -> Callable[..., Any]:
    def rows(uri: str, data: bytes, file: Any, footer: Footer, *told: Any) -> Any:
        findings, statuses = told
        # It has the digest of all bytes before it, which has been compared.
        key = uri, footer.recipe_digest, file.metadata.metadata[DIGEST_KEY]
        if key not in _CHECKED:
            counts: Counter[str] = Counter()
            checks = real(uri, data, file, footer, findings, counts)
            if checks is None or findings.problems():
                return checks
            _CHECKED[key] = checks, counts
        checks, counts = _CHECKED[key]
        statuses.update(counts)
        return checks

    return rows


def _parsed_once(real: Callable[..., Any]) -> Callable[..., Any]:
    def parsed_end(uri: str, tail: bytes, size: int) -> Any:
        key = hashlib.sha1(tail, usedforsecurity=False).hexdigest() + str(size)
        if key not in _METADATA:
            _METADATA[key] = real(uri, tail, size)
        return _METADATA[key]

    return parsed_end


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
        "cambox.nightly.report.version": _VERSION,
        "cambox.nightly.night.Steps": _Silent,
        "cambox.nightly.night.publish_report": lambda report, output: "",
        "cambox.nightly.night.print_summary": lambda summary, console: None,
        "cambox.engines.display.RunDisplay": _Silent,
        "cambox.run._loaded": lambda config, key, console: engine(config),
        "cambox.run.recipe_key": lambda config: None,
        # Functions of their arguments alone, which take the most time.
        "cambox.output.publish.to_parquet": _remembered(_TO_PARQUET),
        "cambox.output.footer._parsed_end": _parsed_once(_PARSED_END),
        "cambox.verify.file._rows": _checked_once(_ROWS),
    }
    for module in (
        *("output.commit", "output.reading", "output.snapshot", "verify.verify"),
        "sources.listing",
    ):
        replacements[f"cambox.{module}.ThreadPoolExecutor"] = _InTurn
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with _patched(replacements):
            yield
    finally:
        logging.disable(before)


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
