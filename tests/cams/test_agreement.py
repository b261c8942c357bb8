"""The agreement of looks: each step against its formula, and the whole on a scene that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cambox.boxes import iou
from cambox.cams import pyramid
from cambox.cams.agreement import TRAITS, Evidence, choose, evidence, probability, traits, votes
from cambox.cams.looks import (
    Candidates,
    Windows,
    apart,
    as_shares,
    best_windows,
    candidates,
    regions,
)
from cambox.cams.pyramid import (
    MOST_CELLS,
    Level,
    refined_windows,
    window_chances,
    windows,
)
from cambox.cams.sums import Members, integral, mean_in, window_means
from cambox.config_cam import AgreementSettings, BoxSettings
from reference import reference_boxes

MEMBERS = [2, 3]
GROUPS = [MEMBERS, [0]]


def level_with_an_object(side: int, mirrored: bool = False) -> Level:
    """Classes 2 and 3 in the right lower quarter, and nowhere else; so looks the middle layer."""
    cells = side // 32
    logits = 0.1 * torch.randn(cells, cells, 6, generator=torch.Generator().manual_seed(side))
    logits[cells // 2 :, cells // 2 :, 2:4] += 4
    features = torch.zeros(1, 2, 2 * cells, 2 * cells)
    features[:, 0] = 1
    features[:, :, cells:, cells:] = torch.tensor([0.0, 1.0])[None, :, None, None]
    return Level(side, logits, (features,), mirrored)


def windows_of(level: Level) -> Windows:
    cells, chances = window_chances(level, Members.of(GROUPS))
    return Windows(cells, np.log(chances.astype(np.float64)))


def test_a_group_is_the_sum_of_its_members() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    logit, log_posterior = Level(96, logits, ()).group(MEMBERS)
    exponentials = logits.double().exp()
    summed = exponentials[..., 2] + exponentials[..., 3]
    torch.testing.assert_close(logit, summed.log().float())
    torch.testing.assert_close(log_posterior, (summed / exponentials.sum(dim=2)).log().float())
    apart_from_others = Level(96, logits, (), independent=True).group(MEMBERS)[1]
    torch.testing.assert_close(apart_from_others, (summed / (1 + summed)).log().float())


def test_a_windows_logits_are_the_plain_mean_of_its_cells() -> None:
    logits = torch.randn(6, 9, 5, generator=torch.Generator().manual_seed(1))
    cells = windows((6, 9))
    means = window_means(integral(logits.numpy()), cells)
    assert means.shape == (len(cells), 5)
    # 7 x 7 and 7 x 5 are cut to the grid's height of 6; all places of each shape are there.
    shapes = {(bottom - top, right - left) for top, left, bottom, right in cells.tolist()}
    assert shapes == {(6, 7), (5, 7), (6, 5), (4, 7), (6, 4), (5, 5)}
    assert len(cells) == sum((7 - down) * (10 - across) for down, across in shapes)
    for (top, left, bottom, right), mean in zip(cells.tolist(), means, strict=True):
        plain = logits[top:bottom, left:right].mean(dim=(0, 1))
        np.testing.assert_allclose(mean, plain.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("independent", [False, True])
def test_the_chances_of_windows_are_a_softmax_over_all_classes(
    independent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(8, 9, 300, generator=generator)
    logits[2:6, 3:7, 7] += 9
    logits[..., 8:40] += 4
    level = Level(288, logits, (), independent=independent)
    groups = [[7], list(range(8, 12)), [299, 298]]
    monkeypatch.setattr(pyramid, "BLOCK", 7 * 300)  # more blocks than one, the last one smaller
    cells, chances = window_chances(level, Members.of(groups))
    assert (cells == windows((8, 9))).all()
    means = [
        logits[top:bottom, left:right].double().mean(dim=(0, 1))
        for top, left, bottom, right in cells.tolist()
    ]
    odds = torch.stack(means).exp()
    for place, members in enumerate(groups):
        summed = odds[:, members].sum(dim=1)
        expected = summed / (1 + summed) if independent else summed / odds.sum(dim=1)
        np.testing.assert_allclose(chances[:, place], expected.numpy(), rtol=1e-3, atol=1e-7)
    _, single = window_chances(level, None)
    assert single.shape == (len(cells), 300)
    np.testing.assert_allclose(single[:, 7], chances[:, 0], rtol=1e-5)


def test_of_a_cell_counts_what_the_box_covers() -> None:
    score_map = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    corners = np.array([[0.0, 0, 1, 1], [0.25, 0, 0.75, 1 / 3], [0.125, 0, 0.5, 0.5]])
    covered = (0.5 * 0 + 1 * 1) + 0.5 * (0.5 * 4 + 1 * 5)
    expected = [[5.5], [1.5], [covered / (1.5 * 1.5)]]
    np.testing.assert_allclose(mean_in(integral(score_map), corners), expected, rtol=1e-6)


def test_means_in_boxes_of_any_place_are_those_of_finely_cut_cells() -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(size=(5, 7, 3)).astype(np.float32)
    # Corners at eighths of a cell; so cut, each part of a cell is in a box or is not.
    low = generator.integers(0, (7 * 8 - 8, 5 * 8 - 8), (40, 2))
    ends = np.hstack([low, low + generator.integers(1, 9, (40, 2))])
    ends = np.vstack([ends, [[0, 0, 56, 40], [0, 39, 56, 40], [55, 0, 56, 40]]])
    fine = values.repeat(8, axis=0).repeat(8, axis=1).astype(np.float64)
    means = mean_in(integral(values), ends / np.array([56, 40, 56, 40]))
    for (left, top, right, bottom), mean in zip(ends.tolist(), means, strict=True):
        plain = fine[top:bottom, left:right].mean(axis=(0, 1))
        # A box of an eighth of a cell each way is a small difference of large sums.
        np.testing.assert_allclose(mean, plain, rtol=0, atol=2e-3)


def test_the_members_of_a_group_are_added_up() -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    assert Members.of([[5], [0, 2, 5]]).sums(values).tolist() == [[5, 7], [11, 25]]


def test_what_is_refined_follows_the_middle_layer() -> None:
    level = level_with_an_object(1280)
    spread = level.refined(level.group(MEMBERS)[0][None])
    assert spread.shape == (1, MOST_CELLS, MOST_CELLS)
    half = MOST_CELLS // 2
    inside, outside = spread[0, half + 1 :, half + 1 :], spread[0, : half - 1, : half - 1]
    # Noise of 0.1 is gone: all cells of one look have one score.
    assert float(inside.min() - outside.max()) > 3.5
    assert float(inside.std()) < 0.01


def test_a_window_is_refined_by_its_own_cells_alone() -> None:
    level = level_with_an_object(1280)
    logit = level.group(MEMBERS)[0]
    cells = np.array([[17, 18, 22, 25], [19, 17, 24, 24], [18, 15, 23, 22]])
    together = refined_windows([level.window(logit, one) for one in cells])
    assert together.shape == (3, 10, 14)
    for part, one in zip(together, cells, strict=True):
        alone = refined_windows([level.window(logit, one)])
        torch.testing.assert_close(part, alone[0], rtol=0, atol=1e-5)
    # The object begins at cell 20: its cells, and those beside it, take of their like.
    inside, outside = together[2, 5:, 11:], together[2, :3, :9]
    assert float(inside.min() - outside.max()) > 3.5


def test_regions_are_the_largest_above_each_threshold() -> None:
    score_map = torch.zeros(16, 16)
    score_map[4:12, 4:12] = 1
    score_map[0:2, 12:16] = 0.5
    score_map[14:16, 0:2] = 1
    other = torch.zeros(16, 16)
    other[1:5, 2:6] = 1
    two, one = regions(torch.stack([score_map, other]), (0.3, 0.7), 2)
    expected = [[4, 4, 12, 12], [12, 0, 16, 2], [4, 4, 12, 12], [0, 14, 2, 16]]
    # Bilinear edges lie half a cell off at most.
    assert np.abs(16 * two - expected).max() <= 0.5
    assert np.abs(16 * one - [[2, 1, 6, 5], [2, 1, 6, 5]]).max() <= 0.5


def test_regions_are_those_that_opencv_finds_at_each_threshold_alone() -> None:
    maps = np.random.default_rng(4).normal(size=(3, 7, 9)).astype(np.float32)
    maps[1] = 2
    first, constant, last = regions(torch.from_numpy(maps), (0.3, 0.7), 4)
    assert len(constant) == 0
    rule = BoxSettings(percentile=100, max_boxes=4, min_area=0, interpolation="bilinear")
    for found, score_map in ((first, maps[0]), (last, maps[2])):
        alone = [
            reference_boxes(score_map, (28, 36), rule.model_copy(update={"threshold": one})).corners
            for one in (0.3, 0.7)
        ]
        np.testing.assert_array_equal(found, np.concatenate(alone))


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
    log_posterior = np.log([0.5, 0.25, 0.1])
    contrast = np.array([[1.0, 4], [2, 5], [3, 6]])
    seen = Evidence(log_posterior, np.log([0.4, 0.3, 0.1]), contrast, np.ones(3))
    by_name = dict(zip(TRAITS, traits(found, seen).T, strict=True))
    log_area = np.log([0.25, 0.2, 0.01])
    shared = 0.8**2
    expected = {
        "log_area": log_area,
        "log_area_squared": log_area**2,
        "cut": [0, 1, 0],
        "best_posterior": np.full(3, np.log(0.5)),
        "logit_contrast": [1, 2, 3],
        "posterior_contrast": [4, 5, 6],
        "ahead": [1, 1, 1],
        "narrowed": log_posterior - np.log([0.4, 0.3, 0.1]),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(by_name[name], values, rtol=1e-6, err_msg=name)
    assert by_name["votes"][0] == pytest.approx(np.log((1 + shared) / 2 + 0.001))
    likely = np.log((1 + shared * 0.5**0.25) / 2 + 0.001)
    assert by_name["likely_votes"][0] == pytest.approx(likely)
    nothing = dict.fromkeys(TRAITS, 0.0)
    settings = AgreementSettings(**nothing | {"intercept": -1.0, "log_area": 0.5, "cut": 2.0})
    plain = 1 / (1 + np.exp(1 - 0.5 * log_area - 2 * np.array([0, 1, 0])))
    np.testing.assert_allclose(probability(settings, traits(found, seen)), plain, rtol=1e-6)


def test_chosen_boxes_lie_apart_and_are_fused_with_their_neighbours() -> None:
    corners = np.array([[0.0, 0, 0.4, 0.4], [0.0, 0, 0.4, 0.3], [0.6, 0.6, 0.9, 0.9]])
    scores = np.array([0.8, 0.6, 0.7])
    assert apart(corners, scores, 0.4, 10) == [0, 2]
    assert apart(corners, scores, 0.76, 2) == [0, 2]
    assert apart(corners, scores, 0.76, 3) == [0, 2, 1]
    fused, kept = choose(corners, scores, 10)
    np.testing.assert_allclose(kept, [0.8, 0.7 * np.exp(-0.5)])
    bottom = (0.8 * 0.4 + 0.6 * 0.75 * 0.3) / (0.8 + 0.6 * 0.75)
    np.testing.assert_allclose(fused, [[0, 0, 0.4, bottom], corners[2]])
    assert choose(corners, scores, 1)[1].tolist() == [0.8]
    nothing = choose(np.zeros((0, 4)), np.zeros(0), 10)
    assert [len(part) for part in nothing] == [0, 0]


def test_looks_at_a_known_scene_agree_on_its_object() -> None:
    upright = [level_with_an_object(side) for side in (224, 448, 1280)]
    levels = [*upright, level_with_an_object(224, mirrored=True)]
    seen = [windows_of(level) for level in upright]
    found, other = candidates(levels, seen, GROUPS, 12)
    assert set(found.look) == set(range(found.look.max() + 1))
    assert (found.corners[:, :2] < found.corners[:, 2:]).all()
    assert found.corners.min() >= 0
    assert found.corners.max() <= 1 + 1e-9
    # Two refined maps and the plain one of each level are one look; and the windows.
    wholes = 3 * len(levels)
    assert wholes < found.look.max() + 1 <= wholes + 12
    assert not found.cut[found.look < wholes].any()
    assert found.cut.any()
    clues = evidence(upright, GROUPS, 0, found.corners, (600, 600))
    columns = dict(zip(TRAITS, traits(found, clues).T, strict=True))
    overlap = iou(found.corners, np.array([0.5, 0.5, 1, 1]))
    assert overlap[columns["votes"].argmax()] > 0.8
    assert clues.contrast[overlap > 0.8, 0].min() > 2
    assert clues.ahead[overlap > 0.8].min() > 2
    assert clues.log_posterior[overlap > 0.8].min() > np.log(0.9)
    assert len(other.corners)
    alone = evidence(upright, [MEMBERS], 0, found.corners, (600, 600))
    assert set(alone.ahead) == {5.0}
    np.testing.assert_allclose(alone.log_posterior, clues.log_posterior)
    [(best, cells), *others] = best_windows(upright, seen, 0, 12)
    assert len(others) <= 11
    top, left, bottom, right = cells.tolist()
    inside = best.logits[top:bottom, left:right].mean(dim=(0, 1))
    assert float((inside[MEMBERS].logsumexp(0) - inside.logsumexp(0)).exp()) > 0.95
    middle = as_shares(cells, best.size)
    assert (middle[:2] + middle[2:] > 1).all()


def test_maps_without_a_difference_give_no_candidates() -> None:
    level = replace(level_with_an_object(224), logits=torch.zeros(7, 7, 6))
    for found in candidates([level], [windows_of(level)], GROUPS, 12):
        assert len(found.corners) == len(found.look) == len(found.cut) == 0
        nothing = evidence([level], GROUPS, 0, found.corners, (600, 600))
        assert traits(found, nothing).shape == (0, len(TRAITS))
