"""Each shard ends once, and one that is in work beside a deadly one is not given up for it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambox.engines.local import SHARDS_IN_WORK
from cambox.engines.worklist import Outcome, ShardFailure, WorkList
from cambox.shard_report import Progress, ShardReport
from cambox.sources.shards import Shard


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def advance(self, progress: Progress) -> None:
        """Not told here."""

    def finished(self, outcome: Outcome) -> None:
        """The outcomes are in the list."""

    def note(self, text: str) -> None:
        self.notes.append(text)


def published(shard: Shard) -> ShardReport:
    return ShardReport(shard, "", Counter(), 0, Counter(), 0.0, {}, None)


@given(
    deadly=st.lists(st.booleans(), min_size=1, max_size=20),
    workers=st.integers(1, 4),
    max_attempts=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_only_the_deadly_are_given_up(
    deadly: list[bool], workers: int, max_attempts: int, seed: int
) -> None:
    shards = [Shard(f"{number}.tar", 1, "x") for number in range(len(deadly))]
    kills = {shard for shard, kill in zip(shards, deadly, strict=True) if kill}
    work = WorkList(shards, max_attempts, Notes())
    chance = random.Random(seed)
    in_work: list[list[Shard]] = [[] for _ in range(workers)]
    deaths = 0
    while work.unfinished:
        mine = chance.choice(in_work)
        if len(mine) < SHARDS_IN_WORK and (shard := work.next(beside=mine)) is not None:
            mine.append(shard)
        elif mine and kills.intersection(mine):
            deaths += 1
            work.lost(list(mine), "the worker died")
            mine.clear()
        elif mine:
            work.finish(published(mine.pop(chance.randrange(len(mine)))))
    failed = {outcome.shard for outcome in work.outcomes if isinstance(outcome, ShardFailure)}
    assert len(work.outcomes) == len(shards)
    assert {outcome.shard for outcome in work.outcomes} == set(shards)
    assert failed == kills
    # Once beside others at the most, and then so often as it may.
    assert deaths <= len(kills) * (max_attempts + 1)
    for outcome in work.outcomes:
        if isinstance(outcome, ShardFailure):
            assert outcome.attempts == max_attempts


def test_a_suspect_is_alone_until_it_is_done() -> None:
    one, other, third = (Shard(f"{name}.tar", 1, "x") for name in ("one", "other", "third"))
    notes = Notes()
    work = WorkList([one, other, third], 3, notes)
    assert (work.next(), work.next(beside=[one])) == (one, other)
    work.lost([one, other], "the worker died")
    assert [note.rpartition("; ")[2] for note in notes.notes] == ["one of 2, so tried alone"] * 2
    # A worker that has something in work gets none of them, and who has one gets nothing else.
    busy = Shard("busy.tar", 1, "x")
    assert work.next(beside=[busy]) == third
    assert work.next(beside=[busy, third]) is None
    assert work.next() == one
    assert work.next(beside=[one]) is None
    work.finish(published(one))
    assert work.next() == other


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_an_error_of_a_shards_own_is_held_against_it(error: Exception) -> None:
    shard = Shard("one.tar", 1, "x")
    work = WorkList([shard], 2, Notes())
    for _ in range(2):
        assert work.next() == shard
        work.failed(shard, error)
    (outcome,) = work.outcomes
    assert isinstance(outcome, ShardFailure)
    assert (outcome.attempts, work.unfinished, work.next()) == (2, 0, None)
