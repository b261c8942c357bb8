"""Average precision, calibration and intervals against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cambox.boxes import Boxes
from cambox.review.evaluate.calibration import (
    calibration_error,
    equal_mass_bins,
    score_curve,
    weighted_calibration_error,
)
from cambox.review.evaluate.detection import figures, match, weighted_precision
from cambox.review.evaluate.figures import Bootstrap, difference, interval

Row = tuple[int, int, list[float], float]


def boxes(*rows: Row) -> Boxes:
    """Rows of image, class, corners, score."""
    image, class_id, corners, score = zip(*rows, strict=True) if rows else ((),) * 4
    return Boxes.of(corners, image=image, class_id=class_id, score=score)


TRUE = boxes((0, 4, [0, 0, 10, 10], 0), (1, 4, [0, 0, 10, 10], 0), (1, 4, [50, 50, 60, 60], 0))
FOUND = boxes(
    (0, 4, [0, 0, 10, 10], 0.9),
    (1, 4, [70, 70, 80, 80], 0.8),
    # IoU 0.82: right up to 0.8, so at seven of the ten IoUs.
    (1, 4, [50, 50, 60, 58.2], 0.7),
)


def test_average_precision_by_hand() -> None:
    # At 0.5: right, wrong, right of 3: precision 1 up to recall 1/3 (34 of the 101 recalls), 2/3
    # up to recall 2/3 (33 of them). Above 0.8 only the first box is right.
    low, high = (34 + 33 * 2 / 3) / 101, 34 / 101
    (result,) = match(FOUND, TRUE)
    assert result.average_precision == pytest.approx([low] * 7 + [high] * 3)
    numbers = figures([result], np.ones((1, 2)))[0]
    assert numbers == pytest.approx([2 / 3, 2 / 3, (7 * low + 3 * high) / 10, low, low])
    assert result.true_found.tolist() == [True, False, True]


def test_a_true_box_is_found_once() -> None:
    twice = boxes((0, 4, [0, 0, 10, 9], 0.5), (0, 4, [0, 0, 10, 10], 0.9))
    (result,) = match(twice, boxes((0, 4, [0, 0, 10, 10], 0)))
    assert result.score.tolist() == [0.9, 0.5]
    assert result.right[:, 0].tolist() == [True, False]


def test_classes_do_not_mix_and_those_without_true_boxes_are_not_averaged() -> None:
    true = boxes((0, 1, [0, 0, 10, 10], 0), (0, 2, [20, 20, 30, 30], 0), (0, -1, [0, 0, 5, 5], 0))
    found = boxes((0, 1, [0, 0, 10, 10], 0.5), (0, 3, [20, 20, 30, 30], 0.9))
    precision, recall, ap, ap50, _ = figures(match(found, true), np.ones((1, 1)))[0]
    # Class 1 has 100 %, class 2 nothing; class 3 is only wrong, and -1 is no class.
    assert (precision, recall) == (1 / 2, pytest.approx(1 / 3))
    assert ap == ap50 == pytest.approx(1 / 2)


def test_resampled_precision_is_pycocotools_s_own() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        images, count, many = 6, int(generator.integers(1, 9)), int(generator.integers(0, 25))
        corners = generator.integers(0, 12, (count + many, 2))
        sides = np.concatenate([corners, corners + generator.integers(4, 9, corners.shape)], axis=1)
        # Few different scores, so that there are ties.
        rows: list[Row] = [
            (int(generator.integers(images)), 1, side.tolist(), float(generator.integers(5)) / 5)
            for side in sides
        ]
        true, found = boxes(*rows[:count]), boxes(*rows[count:])
        (result,) = match(found, true)
        once = weighted_precision(result, np.ones((1, images)))[0]
        assert once == pytest.approx(result.average_precision, abs=1e-12)
        # An image that counts twice is as good as the image and a copy of it. Scores that tie
        # are made different, because the copy of a box comes after those it ties with.
        found = found.with_columns(score=generator.permutation(len(found)).astype(float))
        copies = [0, 0, 2, 3, 4, 4, 4, 5]
        weights = np.bincount(copies, minlength=images)[None, :].astype(float)
        (single,) = match(found, true)
        resampled = match(copied(found, copies), copied(true, copies))
        expected = resampled[0].average_precision if resampled else np.full(10, np.nan)
        ours = weighted_precision(single, weights)[0]
        assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)


def copied(original: Boxes, copies: list[int]) -> Boxes:
    chosen = [
        (copy, index)
        for copy, image in enumerate(copies)
        for index in np.flatnonzero(original.image == image)
    ]
    places = np.array([index for _, index in chosen], dtype=np.int64)
    image = np.array([copy for copy, _ in chosen], dtype=np.int64)
    return original[places].with_columns(image=image)


def test_calibration_error_by_hand() -> None:
    # Ten boxes, ten groups: all are right, and off by what their scores lack to 1.
    scores = np.arange(1, 11) / 10
    assert calibration_error(scores, np.ones(10, bool)) == pytest.approx(0.45)
    # Twenty boxes in groups of two, one of each right: the shares are 1/2.
    pairs = np.repeat(scores, 2)
    half = np.tile([True, False], 10)
    assert calibration_error(pairs, half) == pytest.approx(np.abs(scores - 0.5).mean())
    # What is right as often as it says has none, in any order.
    shuffled = np.random.default_rng(0).permutation(20)
    assert calibration_error(np.full(20, 0.5), half) == pytest.approx(0)
    bins = equal_mass_bins(pairs[shuffled], half[shuffled])
    assert [group.boxes for group in bins] == [2] * 10
    assert [group.score for group in bins] == pytest.approx(scores.tolist())
    assert [group.right for group in bins] == [0.5] * 10
    assert np.isnan(calibration_error(scores[:0], half[:0]))


def test_a_resample_s_calibration_is_that_of_its_boxes() -> None:
    scores, right = np.array([0.9, 0.2, 0.6]), np.array([True, False, False])
    image = np.array([0, 1, 1])
    drawn = weighted_calibration_error(np.array([[2.0, 1], [0, 1]]), image, scores, right)
    assert drawn == pytest.approx([(0.1 + 0.1 + 0.2 + 0.6) / 4, (0.2 + 0.6) / 2])


def test_precision_and_recall_against_a_least_score() -> None:
    curve = score_curve(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0], bool), 4)
    at = {round(point.min_score, 2): point for point in curve}
    for score, kept, precision, recall in (
        (0.0, 4, 2 / 4, 2 / 4),
        (0.5, 3, 2 / 3, 2 / 4),
        (0.52, 1, 1, 1 / 4),
    ):
        point = at[score]
        assert point.boxes == kept
        assert point.precision == pytest.approx(precision)
        assert point.recall == pytest.approx(recall)
    assert at[1.0].precision is None


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    hits = np.arange(400) < 120
    drawn = Bootstrap(400, draws=4000).draw(lambda weights: weights @ hits / 400)[:, 0]
    assert drawn[0] == pytest.approx(0.3)
    spread = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert interval(drawn) == pytest.approx((0.3 - spread, 0.3 + spread), abs=0.006)


def test_an_interval_holds_its_figure_also_where_resamples_lie_higher() -> None:
    # The largest of ten equally good shares is larger in nearly every resample.
    hits = np.random.default_rng(0).random((200, 10)) < 0.5
    drawn = Bootstrap(200).draw(lambda weights: (weights @ hits / 200).max(axis=1))[:, 0]
    assert np.mean(drawn[1:] > drawn[0]) > 0.7
    low, high = interval(drawn)
    assert low + 0.02 < drawn[0] < high - 0.02


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        hits = generator.random(150) < 0.4
        bootstrap = Bootstrap(150, draws=300, seed=trial)
        drawn = bootstrap.draw(lambda weights, hits=hits: weights @ hits / 150)
        low, high = interval(drawn[:, 0])
        covered += low <= 0.4 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_boxes_of_one_image_are_drawn_together() -> None:
    # 100 images with ten equal pairs each say no more than 100 pairs do.
    image = np.repeat(np.arange(100), 10)
    hits = image < 50
    drawn = Bootstrap(100).draw(lambda weights: weights[:, image] @ hits / 1000)
    low, high = interval(drawn[:, 0])
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 100) ** 0.5, rel=0.15)


def test_a_gain_is_measured_on_the_same_resamples_and_the_seed_decides_them() -> None:
    hits = np.arange(50) < 20
    bootstrap = Bootstrap(50, draws=200)
    mine = bootstrap.draw(lambda weights: weights @ hits / 50)[:, 0]
    better = bootstrap.draw(lambda weights: weights @ hits / 50 + 0.1)[:, 0]
    gain = difference(better, mine)
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    again = Bootstrap(50, draws=200).draw(lambda weights: weights @ hits / 50)[:, 0]
    assert np.array_equal(mine, again)
    other = Bootstrap(50, draws=200, seed=1).draw(lambda weights: weights @ hits / 50)[:, 0]
    assert mine[0] == other[0]
    assert not np.array_equal(mine, other)
