"""The figures of localisation against cases worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cambox.boxes import Boxes, best_overlaps, centre_box
from cambox.cams.geometry import MapGeometry
from cambox.config_cam import BoxSettings
from cambox.output.rows import StoredMap
from cambox.review.evaluate.figures import Bootstrap, best_share, comparison, corloc, share
from cambox.review.evaluate.localisation import (
    THRESHOLDS,
    correct_localisation,
    gt_known,
    max_box,
    pairs_of,
    sweep,
    top1,
)
from cambox.review.evaluate.report import Comparison
from cambox.review.rows_with_truth import MappedImages, RowWithTruth

SIDE = 24
# What the settings say of the threshold and of how small or many boxes may be does not count.
SETTINGS = BoxSettings(threshold=1, percentile=100, min_area=1, max_boxes=1)


def image(
    key: str,
    true: dict[int, list[list[float]]],
    boxes: list[tuple[int, int, list[float]]] = (),  # type: ignore[assignment]
    **changes: object,
) -> RowWithTruth:
    """An image of 100 x 100 pixels; boxes are (class, component, corners), of given labels."""
    fields = {
        "key": key,
        "status": "ok",
        "size": (100, 100),
        "labels": tuple(true),
        "predicted": tuple(true)[:1],
        "boxes": Boxes.of(
            [corners for *_, corners in boxes],
            class_id=[class_id for class_id, *_ in boxes],
            component=[component for _, component, _ in boxes],
        ),
        "true_boxes": Boxes.joined(
            Boxes.of(corners, class_id=class_id) for class_id, corners in true.items()
        ),
    }
    return RowWithTruth(**(fields | changes))  # type: ignore[arg-type]


FOUR = [
    # Hit at IoU 0.5 and no more: the lower half of a true box. Its second box is not looked at.
    image("half", {1: [[0, 0, 40, 40]]}, [(1, 0, [0, 0, 40, 20]), (1, 1, [0, 0, 40, 40])]),
    # Hit at 0.7, one of two true boxes; but the network saw another class. As is the centred box.
    image(
        "wrong-class",
        {1: [[10, 10, 90, 90], [0, 0, 5, 5]]},
        [(1, 0, [10, 10, 90, 80])],
        predicted=(7,),
    ),
    # Nothing found, and a true box that the centred one misses.
    image("nothing", {2: [[0, 0, 10, 10]]}),
    # Could not be read: a miss, and one for the centred box as well.
    image("torn", {2: [[10, 10, 90, 90]]}, status="unreadable", size=None, predicted=()),
]


def test_gt_known_top1_and_corloc_by_hand() -> None:
    pairs = pairs_of(FOUR)
    bootstrap = Bootstrap(len(FOUR), draws=100)
    known = gt_known(pairs, bootstrap)
    assert [entry.iou for entry in known] == [0.3, 0.5, 0.7]
    assert [entry.share.output.value for entry in known] == [0.5, 0.5, 0.25]
    assert [entry.share.centre_box.value for entry in known] == [0.25, 0.25, 0.25]
    assert [entry.share.gain.value for entry in known] == [0.25, 0.25, 0.0]
    assert [entry.share.output.value for entry in top1(pairs, bootstrap)] == [0.25, 0.25, 0.0]
    # Class 1: 2 of 2. Class 2: 0 of 2. The centred box: 1 of 2 and 0 of 2.
    mean = correct_localisation(pairs, bootstrap)
    assert (mean.output.value, mean.centre_box.value) == (0.5, 0.25)


def test_corloc_weighs_classes_and_not_images_alike() -> None:
    classes = np.array([1, 1, 1, 2])
    hits = np.array([[True], [True], [False], [False]])
    pairs = np.arange(4)
    assert corloc(np.ones((1, 4)), pairs, classes, hits) == pytest.approx((2 / 3 + 0) / 2)
    # Without the image of class 2 there is only the other class.
    assert corloc(np.array([[1.0, 1, 1, 0]]), pairs, classes, hits) == pytest.approx(2 / 3)


def test_groups_by_size_and_number_of_true_boxes() -> None:
    groups = pairs_of(
        [
            image("large", {1: [[0, 0, 100, 51]]}),
            image("half", {1: [[0, 0, 100, 50]]}),
            image("fifteen", {1: [[0, 0, 100, 15], [0, 0, 1, 1]]}),
            image("small", {1: [[0, 0, 100, 14]]}, predicted=(5, 2)),
            image("unknown", {1: [[0, 0, 9, 9]]}, size=None, status="unreadable"),
        ]
    ).groups()
    assert {name: np.flatnonzero(part).tolist() for name, part in groups.items()} == {
        "area above 50%": [0, 1],
        "area 15% to 50%": [2],
        "area 5% to 15%": [3],
        "area 1% to 5%": [],
        "area below 1%": [],
        "1 true box": [0, 1, 3, 4],
        "2+ true boxes": [2],
        "among predicted": [0, 1, 2, 4],
        "not among them": [3],
    }


def test_the_overlap_has_no_extra_pixel_and_the_centred_box_is_0_8_of_each_side() -> None:
    boxes = Boxes.of([[0, 0, 10, 10], [20, 20, 30, 30]])
    true = Boxes.of([[0, 0, 10, 5], [5, 5, 10, 10]])
    assert best_overlaps(boxes, true).tolist() == [0.5, 0]
    assert best_overlaps(boxes, true[:0]).tolist() == [0, 0]
    # One of another image, and one of another class.
    others = Boxes.of(true.corners, image=[1, 0], class_id=[-1, 3])
    assert best_overlaps(boxes, others).tolist() == [0, 0]
    assert centre_box(200, 100) == pytest.approx(np.array([[20, 10, 180, 90]]))


def mapped(*cases: tuple[np.ndarray, list[list[float]]]) -> MappedImages:
    """Maps of class 1 at their own size, so that nothing is interpolated; pixels are cells."""
    rows = [
        image(
            str(index),
            {1: true},
            size=(SIDE, SIDE),
            # The map of the label, and not that of a prediction of its class.
            maps=(
                StoredMap.of(1, 0, score_map.astype(np.float32)),
                StoredMap.of(1, 1, np.eye(SIDE, dtype=np.float32)),
            ),
            class_scores=(0.5, 0.5),
        )
        for index, (score_map, true) in enumerate(cases)
    ]
    return MappedImages(tuple(rows), MapGeometry((SIDE, SIDE)))


def swept(cells: np.ndarray, *true: list[float]) -> np.ndarray:
    (overlaps,) = sweep(mapped((cells, list(true))), SETTINGS)
    return overlaps


def line_and_block() -> np.ndarray:
    """A line of 20 cells of 1, and a block of 3 x 3 of 0.8."""
    cells = np.zeros((SIDE, SIDE))
    cells[2, 1:21] = 1
    cells[10:13, 5:8] = 0.8
    return cells


LINE, BLOCK = [1.0, 2, 21, 3], [5.0, 10, 8, 13]


def test_a_line_is_larger_than_a_block_although_its_contour_holds_nothing() -> None:
    cells = line_and_block()
    contours, *_ = cv2.findContours(
        (cells > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    by_contour = max(contours, key=cv2.contourArea)
    assert cv2.boundingRect(by_contour) == (5, 10, 3, 3)
    # By cells the line is the largest: the block hits only where any component may.
    largest, any_box = swept(cells, BLOCK)
    assert not largest.any()
    low = THRESHOLDS < 0.79
    assert (any_box[low] == 1).all()
    assert not any_box[THRESHOLDS > 0.81].any()
    largest, any_box = swept(cells, LINE)
    assert (largest == 1).all()
    assert (any_box == 1).all()


def test_boxes_at_the_border_reach_the_image_s_edge() -> None:
    cells = np.zeros((SIDE, SIDE))
    cells[20:, 18:] = 1
    assert (swept(cells, [18, 20, SIDE, SIDE]) == 1).all()


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_map_hits_nothing(value: float) -> None:
    assert not swept(np.full((SIDE, SIDE), value), [0, 0, SIDE, SIDE]).any()


def test_max_box_acc_by_hand_through_maps() -> None:
    cells = line_and_block()
    widening = np.zeros((SIDE, SIDE))
    widening[4:20, 4:20] = 0.3
    widening[10:14, 10:14] = 1
    cases = [
        # The largest box never hits, any box below 0.8.
        (cells, [BLOCK]),
        # Both true boxes are found; one is enough.
        (cells, [LINE, [0.0, 20, 2, 22]]),
        # The whole object below 0.3 (IoU 1); above, its core: 16 of 256 cells.
        (widening, [[4.0, 4, 20, 20]]),
        # The core alone, from 0.3 on.
        (widening, [[10.0, 10, 14, 14]]),
        (np.zeros((SIDE, SIDE)), [[0.0, 0, 24, 24]]),
    ]
    images = mapped(*cases)
    tried: list[int] = []
    pairs = pairs_of(images.rows, sweep(images, SETTINGS, tried.append))
    assert tried == [5] * 5
    for place, (score_map, true) in enumerate(cases):
        assert (pairs.swept[place] == swept(score_map, *true)).all()
    result = max_box(pairs, Bootstrap(len(images), draws=100))
    # Of the largest: case 1 always, case 2 below 0.3 or case 3 from 0.3 on.
    assert [entry.share.output.value for entry in result.max_box_acc] == [2 / 5] * 3
    # Of any box: case 0 as well, below 0.8.
    assert [entry.share.output.value for entry in result.max_box_acc_v2] == [3 / 5] * 3
    assert result.max_box_acc_v2_mean.output.value == pytest.approx(3 / 5)
    # The lowest of equally good thresholds.
    assert {entry.threshold for entry in result.max_box_acc_v2} == {0.0}
    assert len(result.curves[1].any) == 50
    assert result.curves[1].any[-1] == pytest.approx(2 / 5)


def test_one_threshold_serves_the_whole_set_and_each_iou_has_its_own() -> None:
    # Three pairs, four thresholds, two IoUs: the best for each alone would be 100 %.
    first = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    second = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]], bool)
    hits = np.stack([first, second], axis=2)
    pairs = np.arange(3)
    assert best_share(np.ones((1, 3)), pairs, hits) == pytest.approx(np.array([[2 / 3, 2 / 3]]))
    # A resample chooses again: with the last pair three times, its threshold wins.
    again = best_share(np.array([[0, 1.0, 3]]), pairs, hits)
    assert again == pytest.approx(np.array([[3 / 4, 1]]))
    # A group is judged at the threshold of all.
    part = np.array([False, False, True])
    assert best_share(np.ones((1, 3)), pairs, hits, part).tolist() == [[0, 1]]


def test_a_share_over_nothing_is_not_a_number() -> None:
    weights = np.array([[1.0, 0], [0, 1]])
    shares = share(weights, np.array([0, 0]), np.array([[True], [False]]))
    assert shares[0, 0] == 0.5
    assert np.isnan(shares[1, 0])


def test_the_verdict_says_how_far_from_a_box_in_the_middle_and_whether_that_is_noise() -> None:
    def compared(hits: int, centre_hits: int, images: int = 200) -> Comparison:
        bootstrap = Bootstrap(images, 400)
        places = np.arange(images)
        both = [
            bootstrap.draw(share, places, places[:, None] < count) for count in (hits, centre_hits)
        ]
        return comparison(both[0][:, 0], both[1][:, 0])

    above, below = compared(159, 125), compared(100, 125)
    assert above.verdict("x") == "79.5 %, 17.0 points above a box in the middle (62.5 %): x"
    assert below.verdict("x") == "50.0 %, 12.5 points below a box in the middle (62.5 %): x"
    same = compared(125, 125).verdict("x")
    assert same.startswith("62.5 %, no better than a box in the middle (62.5 %), gain +0.0 [")
    assert same.endswith("]: x")
    none = comparison(np.full(9, np.nan), np.full(9, np.nan)).verdict("x")
    assert none == "no verdict, because there is nothing to measure: x"
