"""What the measurements rest on, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.bench_peers import _largest
from jobs.bench_runs import simulate


def test_the_simulated_cluster_hands_out_the_largest_first() -> None:
    seconds = np.array([2.0, 2.0, 3.0])
    # 3 beside 2 + 2: four seconds, seven of eight busy.
    assert simulate(seconds, np.array([2, 2, 3]), 2) == pytest.approx(7 / 8)
    # Handed out in the order of the input: 2 beside 2 + 3 is five seconds.
    assert simulate(seconds, np.array([1, 1, 1]), 2) == pytest.approx(7 / 10)


def test_the_peers_box_is_that_of_the_largest_component() -> None:
    score_map = np.zeros((10, 20), np.float32)
    score_map[2:6, 3:9] = 1
    score_map[8:9, 15:18] = 0.9
    assert _largest(score_map, 100, 100) == [15, 20, 30, 40]
