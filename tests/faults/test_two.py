"""Two drivers on one output at once, and one that was thought dead and publishes late."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from getpass import getuser
from pathlib import Path

import pytest

from conftest import ConfigMaker
from fault_driver import drive, driver, wait_until
from fault_points import (
    AFTER_PUBLISH,
    BEFORE_PUBLISH,
    BEFORE_READ,
    MID_SHARD,
    TEMPORARY_WRITTEN,
    Signal,
)
from fault_runs import FaultTable, LocalRuns, temporaries, visible


@dataclass(frozen=True)
class _InStep:
    """Notes what was published, and waits at the first shard until another driver is there."""

    folder: Path
    name: str
    drivers: int = 2
    without_lease: bool = True

    def __call__(self, point: str, shard: str) -> None:
        if point == BEFORE_READ:
            (self.folder / f"there {self.name}").touch()
            wait_until(lambda: len(list(self.folder.glob("there *"))) == self.drivers, "the other")
        elif point == AFTER_PUBLISH:
            (self.folder / f"published {shard} {self.name}").touch()


def test_two_drivers_at_once_on_one_output(
    local_runs: LocalRuns, fault_table: FaultTable, tmp_path: Path
) -> None:
    """Where the lease fails: it saves work, and what is published is right without it."""
    clean = local_runs.clean(tmp_path / "clean")
    command = ["annotate", str(tmp_path / "config.yaml")]
    with (
        driver(command, _InStep(tmp_path, "one"), tmp_path / "one.log") as one,
        driver(command, _InStep(tmp_path, "two"), tmp_path / "two.log") as two,
    ):
        for process in (one, two):
            process.join(60)
        assert (one.exitcode, two.exitcode) == (0, 0)
    published = len(list(tmp_path.glob("published *")))
    # They planned before either had published, so each did every shard.
    twice = published - len(clean.files)
    folder = local_runs.folder(tmp_path / "out")
    fault_table.check(12, "shard published by two drivers at once", twice, folder, clean)
    assert temporaries(folder) == []


def test_of_two_drivers_the_second_says_who_is_at_work_and_ends(
    local_runs: LocalRuns, fault_table: FaultTable, tmp_path: Path
) -> None:
    clean = local_runs.clean(tmp_path / "clean")
    folder = local_runs.folder(tmp_path / "out")
    command = ["annotate", str(tmp_path / "config.yaml")]
    stop = Signal({"shard-000001.tar": MID_SHARD}, tmp_path / "marks", number=signal.SIGSTOP)
    with driver(command, stop, tmp_path / "first.log") as first:
        wait_until(lambda: stop.sent, "the stop")
        before = visible(folder)
        assert drive(command, None, tmp_path / "second.log") == 1
        assert visible(folder) == before
        said = (tmp_path / "second.log").read_text().splitlines()[-1]
        assert f"another run of this recipe is at work: {getuser()}@" in said
        assert f"process {first.pid}, since {datetime.now(UTC):%Y-%m-%d} " in said
        send(first.pid, signal.SIGCONT)
        first.join(60)
        assert first.exitcode == 0
    fault_table.check(12, "second driver while one is at work", stop.sent, folder, clean)
    assert not lease_of(folder).exists()


def test_a_killed_drivers_lease_is_taken_over_at_once_on_its_own_machine(
    local_runs: LocalRuns, tmp_path: Path
) -> None:
    clean = local_runs.clean(tmp_path / "clean")
    folder = local_runs.folder(tmp_path / "out")
    command = ["annotate", str(tmp_path / "config.yaml")]
    kill = Signal({"shard-000001.tar": MID_SHARD}, tmp_path / "marks")
    assert drive(command, kill, tmp_path / "log") == -signal.SIGKILL
    assert lease_of(folder).exists()
    assert drive(command, None, tmp_path / "log") == 0
    assert "did not end" in " ".join((tmp_path / "log").read_text().split())
    assert visible(folder) == clean.files
    assert not lease_of(folder).exists()


def lease_of(folder: Path) -> Path:
    return folder.parent / "_runs" / folder.name / "lease.json"


def let_it_expire(lease: Path) -> None:
    """As its holder had been silent for an hour."""
    entries = json.loads(lease.read_text())
    entries["until"] = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    lease.write_text(json.dumps(entries))


@pytest.mark.parametrize("point", [MID_SHARD, BEFORE_PUBLISH, TEMPORARY_WRITTEN])
def test_a_driver_thought_dead_publishes_late(
    local_runs: LocalRuns, fault_table: FaultTable, tmp_path: Path, point: str
) -> None:
    clean = local_runs.clean(tmp_path / "clean")
    folder = local_runs.folder(tmp_path / "out")
    command = ["annotate", str(tmp_path / "config.yaml")]
    stop = Signal({"shard-000001.tar": point}, tmp_path / "marks", number=signal.SIGSTOP)
    with driver(command, stop, tmp_path / "late.log") as late:
        wait_until(lambda: stop.sent, "the stop")
        let_it_expire(lease_of(folder))
        assert drive(command, stop, tmp_path / "log") == 0
        assert visible(folder) == clean.files
        assert late.is_alive()
        send(late.pid, signal.SIGCONT)
        late.join(60)
        assert late.exitcode == 0
    fault_table.check(12, f"late publish, stopped {point}", stop.sent, folder, clean)
    assert temporaries(folder) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_late_publish_of_an_old_shard_does_not_cover_the_newer_file(
    make_config: ConfigMaker, shards: Path, fault_table: FaultTable, tmp_path: Path, there: bool
) -> None:
    """Neither where nothing was published before, nor where a still older file was."""
    path = tmp_path / "input" / "shard.tar"
    path.parent.mkdir()
    setting = f"input.shards={path}"
    runs = LocalRuns(make_config(setting))
    folder = runs.folder(tmp_path / "out")
    if there:
        path.write_bytes((shards / "shard-000002.tar").read_bytes())
        assert runs.run().complete
    path.write_bytes((shards / "shard-000000.tar").read_bytes())
    command = ["annotate", str(tmp_path / "config.yaml"), "--set", setting]
    # A file that is replaced is renamed under a lock, which a stopped driver would keep.
    point = BEFORE_PUBLISH if there else TEMPORARY_WRITTEN
    stop = Signal({path.name: point}, tmp_path / "marks", number=signal.SIGSTOP)
    with driver(command, stop, tmp_path / "late.log") as late:
        wait_until(lambda: stop.sent, "the stop")
        path.write_bytes((shards / "shard-000001.tar").read_bytes())
        clean = runs.clean(tmp_path / "clean")
        let_it_expire(lease_of(folder))
        assert runs.run().complete
        assert visible(folder) == clean.files
        send(late.pid, signal.SIGCONT)
        late.join(60)
        assert late.exitcode == 1
    assert visible(folder) == clean.files
    assert "it has changed since it was read" in (tmp_path / "late.log").read_text()
    assert runs.run().reports == ()
    fault_table.check(
        12, "late publish of a shard that has changed since", stop.sent, folder, clean
    )


def send(process: int | None, number: signal.Signals) -> None:
    assert process is not None
    os.kill(process, number)
