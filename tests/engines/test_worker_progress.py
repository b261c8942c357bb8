"""A worker is as still as its oldest shard, whatever the others do."""

from __future__ import annotations

import time

import pytest

from cambox.annotator import Progress
from cambox.engines.worker_progress import Movement, WorkerProgress
from cambox.sources.shards import Shard


def test_a_shard_that_hangs_is_seen_while_others_move(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    hung, other, next_one = (Shard(f"{name}.tar", 1, "x") for name in ("hung", "other", "next"))
    movement = Movement()
    assert movement.progress() == WorkerProgress(Progress(), 0.0)
    movement.begin(hung)
    clock[0] = 10
    movement.advance(hung, Progress(bytes_read=100))
    movement.begin(other)
    clock[0] = 50
    movement.advance(other, Progress(bytes_read=30, samples=4))
    assert movement.progress() == WorkerProgress(Progress(130, 4), 40.0)
    # Others come and go.
    movement.end(other)
    movement.begin(next_one)
    clock[0] = 90
    assert movement.progress().still_seconds == 80
    # Moved again, it counts from then; ended, the next oldest does.
    movement.advance(hung, Progress(samples=1))
    assert movement.progress().still_seconds == 0
    movement.end(hung)
    assert movement.progress() == WorkerProgress(Progress(130, 5), 40.0)
    movement.end(next_one)
    assert movement.progress().still_seconds == 0


def test_a_shard_that_waits_for_older_ones_is_not_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    older, waiting = Shard("older.tar", 1, "x"), Shard("waiting.tar", 1, "x")
    movement = Movement()
    movement.begin(older)
    movement.begin(waiting)
    for second in range(1, 1000):
        clock[0] = second
        movement.advance(older, Progress(samples=1))
    assert movement.progress() == WorkerProgress(Progress(0, 999), 0.0)
