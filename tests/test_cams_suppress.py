"""Suppression between classes, against torchvision's and against known boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms

from pipeline.cams.suppress import kept_between_classes

SIDES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)),
    max_size=12,
)


def corners_of(sides: list[tuple[int, int, int, int]]) -> torch.Tensor:
    rows = [(x, y, x + width, y + height) for x, y, width, height in sides]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


@given(SIDES, st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_with_a_class_for_each_box_it_is_torchvisions(
    sides: list[tuple[int, int, int, int]], limit: float
) -> None:
    corners = corners_of(sides)
    scores = torch.arange(len(sides), 0, -1, dtype=torch.float64)
    expected = set(nms(corners, scores, limit).tolist())
    kept = kept_between_classes(corners, range(len(sides)), limit)
    assert {place for place, stays in enumerate(kept) if stays} == expected


@given(SIDES)
def test_boxes_of_one_class_all_stay(sides: list[tuple[int, int, int, int]]) -> None:
    assert all(kept_between_classes(corners_of(sides), [7] * len(sides), 0.0))


def test_two_breeds_on_one_dog_and_another_dog() -> None:
    dog, same_dog, other_dog = (10, 10, 40, 40), (12, 9, 40, 42), (60, 10, 30, 40)
    corners = corners_of([dog, other_dog, same_dog])
    assert kept_between_classes(corners, [207, 207, 208], 0.7) == [True, True, False]
    # What was dropped drops nothing.
    chain = corners_of([(0, 0, 10, 10), (2, 0, 10, 10), (4, 0, 10, 10)])
    assert kept_between_classes(chain, [1, 2, 3], 0.5) == [True, False, True]


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\) for 2 classes, got \(3, 4\)"):
        kept_between_classes(torch.zeros(3, 4), [1, 2], 0.5)
