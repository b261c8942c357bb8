"""A slice of the simulator's histories, and bugs that it has to find; more by hand, docs/faults.md.

A seed that fails is printed, and ``python -m tests.simulator SEED`` does the same again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.bugs import BUGS, Plant, found_after
from simulator.disk import found_after as found_after_losses
from simulator.disk import loses_power
from simulator.history import History
from simulator.world import at_full_speed

HISTORIES = 500
LOSSES_OF_POWER = 100


def test_no_history_breaks_a_promise() -> None:
    with at_full_speed():
        for seed in range(HISTORIES):
            try:
                History(seed).run()
            except AssertionError as error:
                pytest.fail(f"seed {seed}: {error}")


def test_a_seed_is_the_same_history_each_time() -> None:
    first, second = History(7), History(7)
    first.run()
    second.run()
    assert first.clock.steps == second.clock.steps
    assert first.clock.seconds == second.clock.seconds
    assert first.store.now == second.store.now


@pytest.mark.parametrize("plant", BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_found(plant: Plant) -> None:
    assert found_after(plant, most=600) is not None


def test_a_loss_of_power_loses_no_file_that_was_written(tmp_path: Path) -> None:
    for seed in range(LOSSES_OF_POWER):
        loses_power(seed, tmp_path)


def test_a_file_that_is_not_synced_is_found(tmp_path: Path) -> None:
    assert found_after_losses(tmp_path) is not None
