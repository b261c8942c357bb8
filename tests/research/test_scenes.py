"""How scenes are measured: what is learned from other images only, and the images themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cambox.cams.agreement import TRAITS
from research import scenes
from research.photographs import Scenes


def pairs_of_one_trait(count: int) -> list[scenes.Pair]:
    """Of two candidates the one that the third trait is higher for is right."""
    true = np.array([[0.1, 0.1, 0.9, 0.9]])
    corners = np.array([[0.1, 0.1, 0.9, 0.8], [0.0, 0.0, 0.2, 0.2]])
    traits = np.zeros((2, len(TRAITS)))
    traits[:, 2] = [1, -1]
    return [
        scenes.Pair(image, image % 2, true, corners, traits, 0.5 * (image % 2))
        for image in range(count)
    ]


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
    assert read.groups.members[0] == (404, 895)
    assert read.groups.names[:2] == ("airplane", "apple")
