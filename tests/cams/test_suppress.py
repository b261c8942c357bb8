"""Suppression between classes, against torchvision's and against known boxes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms

from cambox.cams import MapBoxes, NoBoxReason, PseudoBox, without_overlapping_classes

SIDES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)),
    max_size=12,
)


def box(sides: tuple[int, int, int, int], component: int = 0) -> PseudoBox:
    """From x, y, width, height in hundredths of the image."""
    x, y, width, height = (side / 100 for side in sides)
    return PseudoBox(x, y, x + width, y + height, 0.5, component, False, 0.1)


def left(*classes: list[tuple[int, int, int, int]], limit: float) -> list[list[PseudoBox]]:
    found = [
        MapBoxes(tuple(box(sides, place) for place, sides in enumerate(boxes))) for boxes in classes
    ]
    return [list(boxes.boxes) for boxes in without_overlapping_classes(found, limit)]


@given(SIDES, st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_with_a_class_for_each_box_it_is_torchvisions(
    sides: list[tuple[int, int, int, int]], limit: float
) -> None:
    boxes = [box(one) for one in sides]
    corners = torch.tensor([(one.x_min, one.y_min, one.x_max, one.y_max) for one in boxes])
    scores = torch.arange(len(sides), 0, -1, dtype=torch.float32)
    expected = set(nms(corners.reshape(-1, 4), scores, limit).tolist())
    kept = left(*([one] for one in sides), limit=limit)
    assert {place for place, stay in enumerate(kept) if stay} == expected


@given(SIDES)
def test_boxes_of_one_class_all_stay(sides: list[tuple[int, int, int, int]]) -> None:
    assert [len(boxes) for boxes in left(sides, limit=0.0)] == [len(sides)]


def test_two_breeds_on_one_dog_and_another_dog() -> None:
    dog, same_dog, other_dog = (10, 10, 40, 40), (12, 9, 40, 42), (60, 10, 30, 40)
    first, second = left([dog, other_dog], [same_dog, (0, 70, 9, 9)], limit=0.7)
    assert first == [box(dog), box(other_dog, 1)]
    # What is left of a class is counted from 0.
    assert second == [box((0, 70, 9, 9), 0)]
    # What was dropped drops nothing.
    chain = left([(0, 0, 10, 10)], [(2, 0, 10, 10)], [(4, 0, 10, 10)], limit=0.5)
    assert [len(boxes) for boxes in chain] == [1, 0, 1]


def test_a_class_without_any_box_left_says_why() -> None:
    found = [MapBoxes((box((0, 0, 9, 9)),)), MapBoxes((box((0, 0, 9, 9)),))]
    empty = MapBoxes((), NoBoxReason.constant_map)
    result = without_overlapping_classes([*found, empty], 0.5)
    assert result[1] == MapBoxes((), NoBoxReason.overlapping_class)
    assert result[2] == empty
