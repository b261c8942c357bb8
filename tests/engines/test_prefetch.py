"""The next shard is begun while the one before is finished, and nothing goes on after an end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cambox.annotator as station
from cambox.engines.display import RunDisplay
from cambox.engines.outcome import Outcome
from cambox.sources.samples import Sample
from cambox.sources.shards import Shard, find_shards
from faults import QUIET, LocalRuns, visible

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
    with pytest.raises(KeyboardInterrupt):
        local_runs.engine.annotate(shards, Interrupted(QUIET, 3, 1))
    left = [thread.name for thread in threading.enumerate()]
    assert not [name for name in left if name.startswith(("shard", "lane", "decode", "boxes"))]
    found = visible(local_runs.folder(tmp_path / "out"))
    assert found.items() <= clean.files.items()
    # The same again does the rest.
    assert local_runs.run(tmp_path / "out").complete
    assert visible(local_runs.folder(tmp_path / "out")) == clean.files
