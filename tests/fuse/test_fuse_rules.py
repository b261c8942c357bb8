"""Rules over the boxes of two outputs: beside the paper's own code, and loops that anyone reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ensemble_boxes import weighted_boxes_fusion
from hypothesis import given, settings
from hypothesis import strategies as st

from cambox.boxes import Boxes, iou, place_in_group
from cambox.fuse import Rule
from cambox.fuse.rules import combine, weighted_fusion

SIDE = 100.0
WEIGHTS = [(1.0, 1.0), (3.0, 1.0), (0.5, 2.0)]
BOTH = (1.0, 1.0)


def some_boxes(generator: np.random.Generator, count: int) -> Boxes:
    """Boxes around a few places, so that many overlap, of two images and two classes."""
    places = np.array([[30.0, 30, 70, 70], [20, 40, 50, 90], [5, 5, 45, 35]])
    corners = places[generator.integers(0, 3, count)] + generator.uniform(-9, 9, (count, 4))
    image, class_id = np.sort(generator.integers(0, 2, (2, count)), axis=1)
    return Boxes.of(
        np.clip(corners, 0, SIDE).astype(np.float32),
        image=image,
        class_id=class_id,
        component=place_in_group(image, class_id),
        rank=1,
        class_score=generator.uniform(0, 1, count),
        score=generator.uniform(0.05, 1, count).astype(np.float32),
    )


def two_sets(seed: int) -> tuple[Boxes, Boxes]:
    generator = np.random.default_rng(seed)
    first, second = (some_boxes(generator, int(count)) for count in generator.integers(0, 13, 2))
    return first, second


def groups(boxes: Boxes) -> dict[tuple[int, int], Boxes]:
    keys = sorted(set(zip(boxes.image.tolist(), boxes.class_id.tolist(), strict=True)))
    return {key: boxes[(boxes.image == key[0]) & (boxes.class_id == key[1])] for key in keys}


def table(boxes: Boxes) -> np.ndarray:
    """All columns of the boxes, in an order of their own."""
    columns = (boxes.image, boxes.class_id, boxes.rank, boxes.component, boxes.class_score)
    rows = np.column_stack([*columns, boxes.score, boxes.corners])
    return rows[np.lexsort(rows.T)]


def shuffled(boxes: Boxes, generator: np.random.Generator) -> Boxes:
    return boxes[generator.permutation(len(boxes))]


seeds = st.integers(0, 2**32 - 1)
overlaps = st.floats(0.2, 0.9)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_fused_boxes_are_those_of_the_authors(weights: tuple[float, float]) -> None:
    fused_some = 0
    for seed in range(60):
        sets = two_sets(seed)
        ours = groups(weighted_fusion(sets, weights, 0.55))
        for image in range(2):
            mine = [boxes[boxes.image == image] for boxes in sets]
            corners, scores, labels = weighted_boxes_fusion(
                [boxes.corners / SIDE for boxes in mine],
                [boxes.score for boxes in mine],
                [boxes.class_id for boxes in mine],
                weights,
                iou_thr=0.55,
                conf_type="box_and_model_avg",
            )
            fused_some += sum(map(len, mine)) - len(corners)
            for class_id in range(2):
                expected = np.column_stack([scores, corners * SIDE])[labels == class_id]
                found = ours.get((image, class_id), Boxes.of(()))
                actual = np.column_stack([found.score, found.corners])
                assert actual.shape == expected.shape
                expected, actual = (rows[rows[:, 0].argsort()] for rows in (expected, actual))
                # Theirs are added up in float32.
                np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    assert fused_some > 150


@settings(max_examples=60, deadline=None)
@given(seeds, overlaps, st.sampled_from(Rule), st.sampled_from(WEIGHTS))
def test_the_order_of_boxes_does_not_matter(
    seed: int, overlap: float, rule: Rule, weights: tuple[float, float]
) -> None:
    generator, sets = np.random.default_rng(seed), two_sets(seed)
    made = combine(*sets, rule, overlap, weights)
    again = combine(*(shuffled(boxes, generator) for boxes in sets), rule, overlap, weights)
    np.testing.assert_array_equal(table(made), table(again))
    if rule in (Rule.fuse, Rule.agree):
        swapped = combine(*sets[::-1], rule, overlap, weights[::-1])
        np.testing.assert_allclose(table(made), table(swapped), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seeds, overlaps, st.sampled_from(Rule), st.sampled_from(WEIGHTS))
def test_a_box_lies_where_both_outputs_have_their_boxes(
    seed: int, overlap: float, rule: Rule, weights: tuple[float, float]
) -> None:
    first, second = two_sets(seed)
    made = groups(combine(first, second, rule, overlap, weights))
    members = groups(Boxes.joined((first, second)))
    assert made.keys() <= members.keys()
    for key, boxes in made.items():
        given_boxes = members[key]
        assert len(boxes) <= len(given_boxes)
        assert (boxes.corners >= given_boxes.corners.min(axis=0)).all()
        assert (boxes.corners <= given_boxes.corners.max(axis=0)).all()
        assert (boxes.sides > 0).all()
        assert (boxes.score > 0).all()
        assert (boxes.score <= given_boxes.score.max() + 1e-12).all()
        assert set(boxes.class_score) <= set(given_boxes.class_score)
        assert boxes.component.tolist() == list(range(len(boxes)))


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(Rule), st.sampled_from(WEIGHTS))
def test_an_output_with_itself_is_itself(
    seed: int, rule: Rule, weights: tuple[float, float]
) -> None:
    boxes = two_sets(seed)[0]
    # Those of one class lie apart, as components of a map do.
    apart = [
        at
        for at in range(len(boxes))
        if not any(
            boxes.image[at] == boxes.image[one]
            and boxes.class_id[at] == boxes.class_id[one]
            and iou(boxes.corners[at], boxes.corners[one]) >= 0.5
            for one in range(at)
        )
    ]
    boxes = boxes[np.array(apart, np.int64)]
    boxes = boxes.with_columns(component=place_in_group(boxes.image, boxes.class_id))
    made = combine(boxes, boxes, rule, 0.55, weights)
    assert len(made) == len(boxes)
    for name in ("image", "class_id", "rank", "component", "class_score"):
        np.testing.assert_array_equal(getattr(made, name), getattr(boxes, name))
    for name in ("corners", "score"):
        # As they are written.
        np.testing.assert_array_equal(
            getattr(made, name).astype(np.float32), getattr(boxes, name).astype(np.float32)
        )


def plain_union(first: Boxes, second: Boxes, overlap: float) -> list[tuple[float, ...]]:
    def is_new(one: np.ndarray) -> bool:
        return all(iou(one, other) < overlap for other in first.corners)

    return [tuple(corners) for corners in (*first.corners, *filter(is_new, second.corners))]


def plain_replace(first: Boxes, second: Boxes, _: float) -> list[tuple[float, ...]]:
    return [tuple(corners) for corners in (second if len(second) else first).corners]


@settings(max_examples=40, deadline=None)
@given(seeds, overlaps, st.sampled_from([(Rule.union, plain_union), (Rule.replace, plain_replace)]))
def test_whole_boxes_are_taken_from_one_or_the_other(
    seed: int, overlap: float, rule: tuple[Rule, Callable[..., list[tuple[float, ...]]]]
) -> None:
    sets = two_sets(seed)
    made = groups(combine(*sets, rule[0], overlap, BOTH))
    for key in made.keys() | groups(sets[0]).keys() | groups(sets[1]).keys():
        mine, other = (groups(boxes).get(key, Boxes.of(())) for boxes in sets)
        expected = rule[1](mine, other, overlap)
        assert sorted(map(tuple, made.get(key, Boxes.of(())).corners)) == sorted(expected)


@settings(max_examples=40, deadline=None)
@given(seeds, overlaps, st.sampled_from(WEIGHTS))
def test_agreed_boxes_are_pairs_the_best_overlap_first(
    seed: int, overlap: float, weights: tuple[float, float]
) -> None:
    first, second = two_sets(seed)
    made = groups(combine(first, second, Rule.agree, overlap, weights))
    for key in groups(first).keys() | made.keys():
        mine, other = (groups(boxes).get(key, Boxes.of(())) for boxes in (first, second))
        left = {
            (one, two): float(iou(mine.corners[one], other.corners[two]))
            for one in range(len(mine))
            for two in range(len(other))
        }
        expected = []
        while left and max(left.values()) >= overlap:
            one, two = max(left, key=lambda pair: left[pair])
            score = [mine.score[one] * weights[0], other.score[two] * weights[1]]
            corners = np.average([mine.corners[one], other.corners[two]], axis=0, weights=score)
            expected.append((sum(score) / sum(weights), *corners))
            left = {pair: at for pair, at in left.items() if pair[0] != one and pair[1] != two}
        found = made.get(key, Boxes.of(()))
        actual = sorted(np.column_stack([found.score, found.corners]).tolist())
        np.testing.assert_allclose(
            np.reshape(actual, (-1, 5)), np.reshape(sorted(expected), (-1, 5))
        )


def test_two_boxes_by_hand() -> None:
    one = Boxes.of([[0, 0, 40, 40]], score=0.9, class_score=0.7, rank=2)
    other = Boxes.of([[10, 0, 40, 40], [60, 60, 90, 90]], score=[0.3, 0.8], class_score=0.2, rank=2)
    fused = combine(one, other, Rule.fuse, 0.55, BOTH)
    # (0.9 x 0 + 0.3 x 10) / 1.2, and (0.9 + 0.3) / 2; the other one is in one of two outputs.
    assert fused.corners[0].tolist() == pytest.approx([2.5, 0, 40, 40])
    assert fused.score.tolist() == pytest.approx([0.6, 0.4])
    assert (fused.class_score.tolist(), fused.component.tolist()) == ([0.7, 0.2], [0, 1])
    # B's counts three times: (0.9 x 0 + 0.9 x 10) / 1.8, and the score is nearer to B's.
    fused = combine(one, other, Rule.agree, 0.55, (1, 3))
    assert fused.corners.tolist() == [pytest.approx([5, 0, 40, 40])]
    assert fused.score.tolist() == pytest.approx([(0.9 + 3 * 0.3) / 4])
    # Their IoU is 0.75.
    assert len(combine(one, other, Rule.agree, 0.76, BOTH)) == 0
    assert len(combine(one, other, Rule.fuse, 0.76, BOTH)) == 3


def test_what_an_output_holds_best_stays_in_front() -> None:
    large, small, new = (0, 0, 60, 60), (70, 70, 80, 80), (0, 70, 30, 100)
    first = Boxes.of([large, small], score=[0.4, 0.9], component=[0, 1])
    second = Boxes.of([new, small, large], score=[0.8, 0.7, 0.3], component=[0, 1, 2])
    for rule, expected in (
        # Both have the large one, and it is the first of A; of B the new one is the first.
        (Rule.fuse, [new, large, small]),
        (Rule.agree, [large, small]),
        (Rule.union, [large, small, new]),
        (Rule.replace, [new, small, large]),
    ):
        made = combine(first, second, rule, 0.55, BOTH)
        assert made.corners.tolist() == [pytest.approx(one) for one in expected], rule
        assert made.component.tolist() == list(range(len(expected)))


def test_boxes_without_any_score_have_a_mean() -> None:
    none = Boxes.of([[0, 0, 10, 10]], score=0)
    made = combine(none, none.with_columns(corners=none.corners + 1), Rule.fuse, 0.5, BOTH)
    assert made.corners.tolist() == [pytest.approx([0.5, 0.5, 10.5, 10.5])]
    assert made.score.tolist() == [0]
