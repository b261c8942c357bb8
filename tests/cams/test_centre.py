"""The weight around the middle, against the Gaussian written out, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cambox.cams.boxes import NoBoxReason, find_boxes
from cambox.cams.refine import centre_weight, towards_centre
from cambox.config_cam import BoxSettings


def test_the_weight_is_a_gaussian_of_shares_of_the_side() -> None:
    weight = centre_weight((3, 4), 0.5)
    for row in range(3):
        for column in range(4):
            down, across = (row + 0.5) / 3 - 0.5, (column + 0.5) / 4 - 0.5
            expected = math.exp(-(down**2 + across**2) / (2 * 0.5**2))
            assert float(weight[row, column]) == pytest.approx(expected, rel=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.05, 5))
def test_it_is_symmetric_and_highest_in_the_middle(height: int, width: int, spread: float) -> None:
    weight = centre_weight((height, width), spread)
    torch.testing.assert_close(weight, weight.flip(0))
    torch.testing.assert_close(weight, weight.flip(1))
    assert weight.max() == weight[height // 2, width // 2]
    assert weight.max() <= 1


def test_scores_do_not_rise_and_keep_their_order_at_one_distance() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 8, 8) * 5 - 2
    weighed = towards_centre(maps, 0.4)
    normalised = (maps - maps.amin((2, 3), keepdim=True)) / (
        maps.amax((2, 3), keepdim=True) - maps.amin((2, 3), keepdim=True)
    )
    torch.testing.assert_close(weighed, normalised * centre_weight((8, 8), 0.4))
    # A much wider Gaussian changes nothing but the scale.
    torch.testing.assert_close(towards_centre(maps, 1e4), normalised)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_a_constant_map_stays_without_a_box(value: float) -> None:
    # With noise that rounding makes.
    maps = value * (1 + 1e-7 * torch.rand(1, 1, 7, 7))
    found = find_boxes(towards_centre(maps, 0.4)[0], (28, 28), BoxSettings())
    assert found.reasons == (NoBoxReason.constant_map,)


def test_a_map_that_is_not_finite_stays_so() -> None:
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 1, 1] = float("nan")
    maps[0, 1, 1, 1] = float("inf")
    found = find_boxes(towards_centre(maps, 0.4)[0], (8, 8), BoxSettings())
    assert found.reasons == (NoBoxReason.non_finite_map,) * 2
