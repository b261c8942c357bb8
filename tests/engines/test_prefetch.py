"""The next shard is begun while the one before is finished, and nothing goes on after an end.

A worker is as still as its oldest shard, whatever the others do.
"""

from __future__ import annotations

import gc
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import cambox.annotator as station
from cambox.engines.display import RunDisplay
from cambox.engines.local import Prefetch, WorkerProgress
from cambox.engines.worklist import Outcome
from cambox.output.ledger import plan
from cambox.planned import annotate_planned
from cambox.shard_report import Progress
from cambox.sources.samples import Sample
from cambox.sources.shards import Shard, find_shards
from fault_runs import QUIET, LocalRuns, visible, with_output

PATIENCE = 20.0


def test_the_next_shard_is_read_before_the_one_before_is_published(
    local_runs: LocalRuns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean = local_runs.clean(tmp_path / "clean")
    publish, read_samples = station.publish, station.read_samples
    begun: list[str] = []
    second_begun = threading.Event()
    waited: list[bool] = []

    def reading(shard: Shard, *rest: Any) -> Iterator[Sample]:
        begun.append(shard.uri)
        if len(begun) == 2:
            second_begun.set()
        return read_samples(shard, *rest)

    def publishing(rows: Any, shard: Shard, *rest: Any) -> str:
        if shard.uri == begun[0]:
            waited.append(second_begun.wait(PATIENCE))
        return publish(rows, shard, *rest)

    monkeypatch.setattr(station, "read_samples", reading)
    monkeypatch.setattr(station, "publish", publishing)
    assert local_runs.run(tmp_path / "out").complete
    assert waited == [True]
    assert len(begun) == 3
    assert visible(local_runs.folder(tmp_path / "out")) == clean.files


def test_one_shard_is_read_at_a_time(
    local_runs: LocalRuns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read_samples = station.read_samples
    open_now: list[str] = []
    most = [0]

    def reading(shard: Shard, *rest: Any) -> Iterator[Sample]:
        open_now.append(shard.uri)
        most[0] = max(most[0], len(open_now))
        yield from read_samples(shard, *rest)
        open_now.remove(shard.uri)

    monkeypatch.setattr(station, "read_samples", reading)
    assert local_runs.run(tmp_path / "out").complete
    assert most == [1]


class Interrupted(RunDisplay):
    """Somebody presses Ctrl-C when the first shard is published."""

    def finished(self, outcome: Outcome) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_ends_the_shards_in_work(
    local_runs: LocalRuns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean = local_runs.clean(tmp_path / "clean")
    monkeypatch.setattr(
        local_runs.engine,
        "config",
        local_runs.config.model_copy(
            update={
                "output": local_runs.config.output.model_copy(update={"uri": str(tmp_path / "out")})
            }
        ),
    )
    shards = tuple(find_shards(local_runs.config.input.shards))
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        local_runs.engine.annotate(shards, Interrupted(QUIET, 3, 1))
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not [name for name in left if name.startswith(("shard", "lane", "decode", "boxes"))]
    found = visible(local_runs.folder(tmp_path / "out"))
    assert found.items() <= clean.files.items()
    # The same again does the rest.
    assert local_runs.run(tmp_path / "out").complete
    assert visible(local_runs.folder(tmp_path / "out")) == clean.files


def test_after_an_interrupt_a_run_says_what_is_published_and_how_to_go_on(
    local_runs: LocalRuns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    honest = RunDisplay.finished

    def interrupt(self: RunDisplay, outcome: Outcome) -> None:
        honest(self, outcome)
        if self.finished_shards == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDisplay, "finished", interrupt)
    config = with_output(local_runs.config, tmp_path / "out")
    local_runs.engine.config = config
    shards = find_shards(config.input.shards)
    log = io.StringIO()
    work = plan(shards, local_runs.engine.recipe, config.output)
    with pytest.raises(KeyboardInterrupt):
        annotate_planned(config, local_runs.engine, work, Console(file=log))
    folder = local_runs.folder(tmp_path / "out")
    said = log.getvalue()
    # Among them what was written meanwhile.
    count = len(visible(folder))
    assert count > 0
    assert f"interrupted: {count} of 3 shards published in {folder}; the same command" in said


class ByHand:
    """An annotator of shards that are read at once, and then move when a test says so."""

    def __init__(self) -> None:
        self.advance: dict[Shard, Callable[[Progress], None]] = {}
        self.closed = threading.Event()

    def annotate(self, shard: Shard, advance: Any, read: Callable[[], None]) -> None:
        self.advance[shard] = advance
        read()
        self.closed.wait(PATIENCE)

    def close(self, wait: bool = True) -> None:
        self.closed.set()


def test_a_shard_that_hangs_is_seen_while_others_move(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    hung, other, next_one = (Shard(f"{name}.tar", 1, "x") for name in ("hung", "other", "next"))
    by_hand: Any = ByHand()
    with closing(Prefetch(by_hand)) as worker:
        assert worker.progress() == WorkerProgress(Progress(), 0.0)
        worker.begin(hung)
        clock[0] = 10
        by_hand.advance[hung](Progress(bytes_read=100))
        worker.begin(other)
        clock[0] = 50
        by_hand.advance[other](Progress(bytes_read=30, samples=4))
        assert worker.progress() == WorkerProgress(Progress(130, 4), 40.0)
        assert worker.progress() == WorkerProgress(Progress(), 40.0), "told once"
        # Others come and go.
        worker.end(other)
        worker.begin(next_one)
        clock[0] = 90
        assert worker.progress().still_seconds == 80
        # Moved again, it counts from then; ended, the next oldest does.
        by_hand.advance[hung](Progress(samples=1))
        assert worker.progress().still_seconds == 0
        worker.end(hung)
        assert worker.progress() == WorkerProgress(Progress(), 40.0)
        worker.end(next_one)
        assert worker.progress().still_seconds == 0


def test_a_shard_that_waits_for_older_ones_is_not_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    older, waiting = Shard("older.tar", 1, "x"), Shard("waiting.tar", 1, "x")
    by_hand: Any = ByHand()
    with closing(Prefetch(by_hand)) as worker:
        worker.begin(older)
        worker.begin(waiting)
        for second in range(1, 1000):
            clock[0] = second
            by_hand.advance[older](Progress(samples=1))
        assert worker.progress() == WorkerProgress(Progress(0, 999), 0.0)


class Frozen(RunDisplay):
    """Notes for each shard whether the collector leaves out what was loaded before."""

    frozen: tuple[bool, ...] = ()

    def finished(self, outcome: Outcome) -> None:
        self.frozen += (gc.get_freeze_count() > 0,)


def test_only_a_run_keeps_the_collector_from_what_is_loaded(local_runs: LocalRuns) -> None:
    gc.unfreeze()
    before = gc.get_freeze_count()
    by_hand: Any = ByHand()
    with closing(Prefetch(by_hand)):
        assert gc.get_freeze_count() == before, "a helper does nothing to the whole process"
    shards = tuple(find_shards(local_runs.config.input.shards))
    display = Frozen(QUIET, 3, 1)
    local_runs.engine.annotate(shards, display)
    assert display.frozen == (True,) * 3
    assert gc.get_freeze_count() == before
