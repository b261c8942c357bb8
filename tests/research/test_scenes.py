"""The agreement of looks: each step against its formula, and the whole on a scene that is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cambox.boxes import iou
from cambox.config import ModelSettings
from cambox.models.load import load_classifier
from cambox.models.middle import with_middle_layers
from research import scenes
from research.photographs import Scenes
from research.scene_boxes import (
    THRESHOLDS,
    Candidates,
    agreement,
    apart,
    best_windows,
    choose,
    evidence,
    looks,
    regions,
    votes,
)
from research.scene_pyramid import Level, group, mean_in, pyramid, windows

MEMBERS = [2, 3]


def level_with_an_object(side: int) -> Level:
    """Classes 2 and 3 in the right lower quarter, and nowhere else; so looks the middle layer."""
    cells = side // 32
    logits = 0.1 * torch.randn(6, cells, cells, generator=torch.Generator().manual_seed(side))
    logits[2:4, cells // 2 :, cells // 2 :] += 4
    features = torch.zeros(1, 2, 2 * cells, 2 * cells)
    features[:, 0] = 1
    features[:, :, cells:, cells:] = torch.tensor([0.0, 1.0])[None, :, None, None]
    return Level(side, logits, (features,))


def test_a_group_is_the_sum_of_its_members() -> None:
    logits = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    logit, log_posterior = group(logits, MEMBERS)
    exponentials = logits.double().exp()
    summed = exponentials[2] + exponentials[3]
    torch.testing.assert_close(logit, summed.log().float())
    torch.testing.assert_close(log_posterior, (summed / exponentials.sum(dim=0)).log().float())


def test_a_windows_logits_are_the_plain_mean_of_its_cells() -> None:
    logits = torch.randn(5, 6, 9, generator=torch.Generator().manual_seed(1))
    cells, means = windows(logits)
    assert means.shape == (5, len(cells))
    # 7 x 7 and 7 x 5 are cut to the grid's height of 6; all places of each shape are there.
    shapes = {(bottom - top, right - left) for top, left, bottom, right in cells.tolist()}
    assert shapes == {(6, 7), (5, 7), (6, 5), (4, 7), (6, 4), (5, 5)}
    assert len(cells) == sum((7 - down) * (10 - across) for down, across in shapes)
    for (top, left, bottom, right), mean in zip(cells.tolist(), means.T, strict=True):
        plain = logits[:, top:bottom, left:right].mean(dim=(1, 2))
        torch.testing.assert_close(mean, plain, rtol=0, atol=1e-5)


def test_of_a_cell_counts_what_the_box_covers() -> None:
    score_map = torch.arange(12.0).view(1, 3, 4)
    corners = np.array([[0.0, 0, 1, 1], [0.25, 0, 0.75, 1 / 3], [0.125, 0, 0.5, 0.5]])
    covered = (0.5 * 0 + 1 * 1) + 0.5 * (0.5 * 4 + 1 * 5)
    expected = [[5.5, 1.5, covered / (1.5 * 1.5)]]
    np.testing.assert_allclose(mean_in(score_map, corners).numpy(), expected, rtol=1e-6)


def test_regions_are_the_largest_above_each_threshold() -> None:
    score_map = np.zeros((16, 16), np.float32)
    score_map[4:12, 4:12] = 1
    score_map[0:2, 12:16] = 0.5
    score_map[14:16, 0:2] = 1
    two = regions(score_map, (0.3, 0.7), 2)
    expected = [[4, 4, 12, 12], [12, 0, 16, 2], [4, 4, 12, 12], [0, 14, 2, 16]]
    # Bilinear edges lie half a cell off at most.
    assert np.abs(16 * two - expected).max() <= 0.5


def test_each_look_votes_by_its_best_candidate() -> None:
    generator = np.random.default_rng(2)
    low = generator.uniform(0, 0.5, (7, 2))
    corners = np.hstack([low, low + generator.uniform(0.1, 0.5, (7, 2))])
    look = np.array([0, 0, 0, 1, 2, 2, 2])
    weights = generator.uniform(0, 1, 7)
    overlaps = iou(corners[:, None], corners[None])
    expected = []
    for one in range(7):
        best = [
            max(
                overlaps[one, other] ** 2 * weights[other] for other in range(7) if look[other] == k
            )
            for k in range(3)
        ]
        expected.append(np.log(sum(best) / 3 + 0.001))
    np.testing.assert_allclose(votes(overlaps, look, weights), expected)
    # Alone in its look a box has one vote of three, its own.
    far = np.array([[0.0, 0, 0.1, 0.1], [0.5, 0.5, 0.6, 0.6], [0.8, 0, 0.9, 0.1]])
    alone = votes(iou(far[:, None], far[None]), np.arange(3), np.ones(3))
    np.testing.assert_allclose(alone, np.log(1 / 3 + 0.001))


def test_traits_are_what_they_say() -> None:
    corners = np.array([[0.0, 0, 0.5, 0.5], [0.0, 0, 0.5, 0.4], [0.9, 0.9, 1, 1]])
    found = Candidates(corners, np.array([0, 1, 1]), np.array([False, True, False]))
    log_posterior, contrast = np.log([0.5, 0.25, 0.1]), np.array([1.0, 2, 3])
    traits = agreement(found, log_posterior, contrast)
    np.testing.assert_allclose(traits[:, 0], np.log([0.25, 0.2, 0.01]))
    np.testing.assert_allclose(traits[:, 1], traits[:, 0] ** 2)
    shared = 0.8**2
    np.testing.assert_allclose(traits[0, 2], np.log((1 + shared) / 2 + 0.001))
    np.testing.assert_allclose(traits[0, 3], np.log((1 + shared * 0.5**0.25) / 2 + 0.001))
    assert traits[:, 4].tolist() == [0, 1, 0]
    np.testing.assert_allclose(traits[:, 5], np.log(0.5))
    assert traits[:, 6].tolist() == [1, 2, 3]


def test_chosen_boxes_lie_apart_and_are_fused_with_their_neighbours() -> None:
    corners = np.array([[0.0, 0, 0.4, 0.4], [0.0, 0, 0.4, 0.3], [0.6, 0.6, 0.9, 0.9]])
    scores = np.array([0.8, 0.6, 0.7])
    assert apart(corners, scores, 0.4, 10) == [0, 2]
    assert apart(corners, scores, 0.76, 2) == [0, 2]
    assert apart(corners, scores, 0.76, 3) == [0, 2, 1]
    fused, kept = choose(corners, scores)
    assert kept.tolist() == [0.8, 0.7]
    bottom = (0.8 * 0.4 + 0.6 * 0.75 * 0.3) / (0.8 + 0.6 * 0.75)
    np.testing.assert_allclose(fused, [[0, 0, 0.4, bottom], corners[2]])


def test_looks_at_a_known_scene_agree_on_its_object() -> None:
    levels = [level_with_an_object(side) for side in (224, 448, 1280)]
    found = looks(levels, MEMBERS)
    assert set(found.look) == set(range(found.look.max() + 1))
    assert (found.corners[:, :2] < found.corners[:, 2:]).all()
    assert found.corners.min() >= 0
    assert found.corners.max() <= 1 + 1e-9
    # Two refined maps and the plain one, but at 1280 the plain one alone; and the windows.
    assert found.look.max() + 1 <= 3 + 3 + 1 + 12
    assert found.cut.any()
    windowed = found.look >= 7
    assert not found.cut[~windowed].any()
    log_posterior, contrast = evidence(levels, MEMBERS, found.corners, (600, 600))
    traits = agreement(found, log_posterior, contrast)
    overlap = iou(found.corners, np.array([0.5, 0.5, 1, 1]))
    assert overlap[traits[:, 2].argmax()] > 0.8
    assert contrast[overlap > 0.8].min() > 2
    assert log_posterior[overlap > 0.8].min() > np.log(0.9)
    [(best, cells), *others] = best_windows(levels, MEMBERS)
    assert len(others) <= 11
    top, left, bottom, right = cells.tolist()
    inside = best.logits[:, top:bottom, left:right].mean(dim=(1, 2))
    assert group(inside, MEMBERS)[1].exp() > 0.95
    assert best.refined_window(best.logits[2], cells).shape == (
        2 * (bottom - top),
        2 * (right - left),
    )
    with pytest.raises(ValueError, match="all are constant"):
        looks([replace(levels[0], logits=torch.zeros(6, 7, 7))], MEMBERS)
    assert len(THRESHOLDS) == 5


def test_the_mean_over_cells_is_what_the_network_says_at_each_size() -> None:
    classifier = with_middle_layers(
        load_classifier(ModelSettings(name="test_resnet", input_size=64)), 2
    )
    image = np.random.default_rng(3).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    with torch.inference_mode():
        small, large = pyramid(classifier, image, (64, 160))
        assert (small.size, large.size) == ((1, 2), (3, 5))
        sized = replace(classifier.preprocessing, height=96, width=160)
        resized = cv2.resize(image, (160, 96), interpolation=cv2.INTER_LINEAR)
        own = replace(classifier, preprocessing=sized).scores(resized[None]).logits[0]
        torch.testing.assert_close(large.logits.mean(dim=(1, 2)), own, rtol=1e-3, atol=1e-4)
    assert all(layer.shape[2] % 3 == 0 and layer.shape[3] % 5 == 0 for layer in large.middle)
    with pytest.raises(ValueError, match="one linear layer"):
        pyramid(load_classifier(ModelSettings(name="test_convnext", input_size=64)), image)


def pairs_of_one_trait(count: int) -> list[scenes.Pair]:
    """Of two candidates the one that the third trait is higher for is right."""
    true = np.array([[0.1, 0.1, 0.9, 0.9]])
    corners = np.array([[0.1, 0.1, 0.9, 0.8], [0.0, 0.0, 0.2, 0.2]])
    generator = np.random.default_rng(4)
    pairs = []
    for image in range(count):
        traits = generator.normal(0, 0.1, (2, 7))
        traits[:, 2] += [1, -1]
        pairs.append(scenes.Pair(image, image % 2, true, corners, traits, 0.5 * (image % 2)))
    return pairs


def test_what_is_right_is_learned_from_the_other_folds() -> None:
    pairs = pairs_of_one_trait(20)
    boxes = scenes.held_out(pairs, [pairs], 20)
    result = scenes.measure(("net", "own", "10 a pair"), pairs, boxes, 20)
    assert result.gt_known == {area: [1, 1, 1] for area in ("all", "> 50 %", "> 15")}
    assert (result.recall, result.precision, result.ap50) == (1, 0.5, pytest.approx(1))
    assert (result.seen, result.unseen, result.interval.low) == (1, 1, 1)
    fewer = scenes.fewer(boxes, 0.5, 0.0)
    assert [len(scores) for _, scores in fewer] == [1] * 20
    assert [len(scores) for _, scores in scenes.fewer(boxes, 0.0, 1.0)] == [1] * 20
    assert scenes.measure(("", "", ""), pairs, fewer, 20).precision == 1
    # A fold's own images cannot teach it: where they alone show what is right, all is a guess.
    fold = np.empty(20, int)
    fold[np.random.default_rng(0).permutation(20)] = np.arange(20) % 5
    swapped = [replace(one, traits=-one.traits) if fold[one.image] == 0 else one for one in pairs]
    wrong = scenes.measure(("", "", ""), swapped, scenes.held_out(swapped, [swapped], 20), 20)
    assert wrong.gt_known["all"][1] == pytest.approx(0.8)


def test_scenes_are_read_with_their_groups(shared: Path) -> None:
    read = Scenes.read(shared / "data" / "scenes-dev")
    pairs = sum(len(np.unique(boxes.class_id)) for boxes in read.true)
    assert (len(read.files), pairs, sum(map(len, read.true))) == (160, 403, 924)
    assert all(boxes.corners.min() >= 0 and boxes.corners.max() <= 1.01 for boxes in read.true)
    assert read.groups[0] == [404, 895]
