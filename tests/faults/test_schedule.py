"""Any schedule of crashes at the named points, then a run to the end: the clean run's output."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fault_points import POINTS, CrashError, installed
from fault_runs import Clean, FaultTable, LocalRuns, visible

# Each run of a schedule crashes when it comes by a point for the so-and-so-many-th time.
CRASHES = st.lists(st.tuples(st.sampled_from(POINTS), st.integers(1, 4)), min_size=1, max_size=6)


class _CrashAt:
    def __init__(self, point: str, visit: int) -> None:
        self.point = point
        self.visits_left = visit

    def __call__(self, point: str, shard: str) -> None:
        self.visits_left -= point == self.point
        if self.visits_left == 0:
            raise CrashError


def crashes(runs: LocalRuns, output: Path, schedule: list[tuple[str, int]], clean: Clean) -> int:
    """Run as often as the schedule says and count the runs that crashed."""
    crashed = 0
    for point, visit in schedule:
        with installed(_CrashAt(point, visit)):
            try:
                runs.run(output)
            except CrashError:
                crashed += 1
        # What is visible is whole and right at every moment, not only at the end.
        assert visible(runs.folder(output)).items() <= clean.files.items()
    return crashed


# The fixtures are only read; each example has an output of its own.
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schedule=CRASHES)
def test_any_schedule_of_crashes_ends_as_a_clean_run(
    local_runs: LocalRuns, fault_table: FaultTable, tmp_path: Path, schedule: list[tuple[str, int]]
) -> None:
    clean = local_runs.clean(tmp_path / "clean")
    output = Path(tempfile.mkdtemp(dir=tmp_path))
    crashed = crashes(local_runs, output, schedule, clean)
    assert local_runs.run(output).complete
    if crashed:
        fault_table.check(
            18, "random schedule of crashes", crashed, local_runs.folder(output), clean
        )
    assert visible(local_runs.folder(output)) == clean.files
    # Again is a no-op, whatever happened before.
    assert local_runs.run(output).reports == ()
    shutil.rmtree(output)
