"""kill -9 of the local driver, wherever it is: the rerun ends with what a clean run leaves."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from cambox.engines.local import SHARDS_IN_WORK
from cambox.sources.pack import pack
from conftest import ConfigMaker
from fault_driver import drive, driver, wait_until
from fault_points import POINTS, TEMPORARY_WRITTEN, Signal, Slow
from fault_runs import FaultTable, LocalRuns, let_a_day_pass, temporaries, visible


@pytest.mark.parametrize("point", POINTS)
def test_a_driver_killed_at_a_point_and_run_again(
    local_runs: LocalRuns, fault_table: FaultTable, tmp_path: Path, point: str
) -> None:
    clean = local_runs.clean(tmp_path / "clean")
    folder = local_runs.folder(tmp_path / "out")
    command = ["annotate", str(tmp_path / "config.yaml")]
    kill = Signal({"shard-000001.tar": point}, tmp_path / "marks")
    assert drive(command, kill, tmp_path / "log") == -signal.SIGKILL
    # What is visible is whole, at every moment.
    assert visible(folder).items() <= clean.files.items()
    left = len(temporaries(folder))
    # Its own, and perhaps those of shards that were in work beside it.
    assert (point == TEMPORARY_WRITTEN) <= left <= SHARDS_IN_WORK

    assert drive(command, kill, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    fault_table.check(2, f"kill -9 of the local driver, {point}", kill.sent, folder, clean)

    # A day later nobody can be writing the temporary file any more.
    let_a_day_pass(folder)
    last = local_runs.run()
    assert (len(last.reports), temporaries(folder)) == (0, [])
    if left:
        fault_table.check(19, "temporary file of a killed driver, a day later", left, folder, clean)


def test_a_driver_killed_at_ten_random_moments(
    make_config: ConfigMaker, fault_table: FaultTable, pictures: Path, tmp_path: Path
) -> None:
    """Two of the moments are during its start; the others while it works."""
    for part in ("one", "two"):
        pack(pictures, tmp_path / part, pictures / "labels.csv", samples_per_shard=1)
    shards = f"input.shards={tmp_path}/{{one,two}}/*.tar"
    runs = LocalRuns(make_config(shards))
    clean = runs.clean(tmp_path / "clean")
    folder = runs.folder(tmp_path / "out")
    command = ["annotate", str(tmp_path / "config.yaml"), "--set", shards]
    moments = random.Random(20260131)
    killed = 0
    published = []
    for turn in range(10):
        slow = Slow(0.04, tmp_path / f"begun-{turn}")
        with driver(command, slow, tmp_path / "log") as process:
            if turn >= 2:
                wait_until(lambda slow=slow: slow.processes, "the first shard's start")
            time.sleep(moments.uniform(0, 0.6))
            process.kill()
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        found = visible(folder)
        assert found.items() <= clean.files.items()
        published.append(len(found))
    # The moments are spread over the work: neither all before it nor all behind it.
    assert len(set(published)) > 2, published
    assert drive(command, None, tmp_path / "log") == 0
    assert killed == 10
    fault_table.check(2, "kill -9 of the local driver at a random moment", killed, folder, clean)
