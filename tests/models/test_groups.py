"""Groups of classes against the sums written out, and what is wrong with a file of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.errors import RequestError
from cambox.maps import MapMaker
from cambox.models.groups import ClassGroups, class_probabilities, read_groups
from cambox.models.load import load_classifier

NAMES = ["tabby", "beagle", "poodle", "crane", "crane", "car", "van"]
GROUPS = ClassGroups(("dog", "car", "cat"), ((1, 2), (5, 6, 3), (0,)))


def random_logits() -> torch.Tensor:
    return 4 * torch.randn(5, len(NAMES), generator=torch.Generator().manual_seed(0))


def test_a_groups_probability_is_the_sum_of_its_members() -> None:
    logits = random_logits()
    single = logits.double().softmax(dim=1)
    summed = torch.stack(
        [single[:, 1] + single[:, 2], single[:, 3] + single[:, 5] + single[:, 6], single[:, 0]], 1
    )
    torch.testing.assert_close(class_probabilities(logits, "softmax", GROUPS), summed.float())
    # Class 4 is in no group, and counts.
    assert (summed.sum(dim=1) < 1).all()


def test_under_a_sigmoid_the_odds_add_up() -> None:
    logits = random_logits()
    single = logits.double().sigmoid()
    odds = single / (1 - single)
    p = class_probabilities(logits, "sigmoid", GROUPS).double()
    expected = odds[:, [3, 5, 6]].sum(dim=1)
    torch.testing.assert_close((p / (1 - p))[:, 1], expected, rtol=1e-4, atol=1e-6)


def test_shares_are_the_derivative_and_the_rest_is_their_entropy() -> None:
    logits = random_logits()
    wanted = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 1], [0, 0]])
    shares = GROUPS.shares(logits, wanted)
    leaf = logits.clone().requires_grad_()
    for image in range(5):
        for place in range(2):
            members = list(GROUPS.members[int(wanted[image, place])])
            logit = leaf[image, members].exp().sum().log()
            (gradient,) = torch.autograd.grad(logit, leaf)
            torch.testing.assert_close(shares[image, place], gradient[image])
            own = shares[image, place, members]
            entropy = -(own * own.log()).sum()
            torch.testing.assert_close((own * logits[image, members]).sum() + entropy, logit)


def test_a_file_names_indices_ranges_and_classes(tmp_path: Path) -> None:
    file = tmp_path / "groups.yaml"
    # Neither yes nor 1 is text to YAML, and both are names here.
    file.write_text("dog: [1-2, 1]\n'yes': [tabby, 5]\n1: van\n")
    groups = read_groups(str(file), NAMES)
    assert groups.names == ("dog", "yes", "1")
    assert groups.members == ((1, 2), (0, 5), (6,))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dog: [1]\ndog: [2]\n", "dog: named twice"),
        ("dog: []\n", "dog: has no members"),
        ("dog: {a: 1}\n", "dog: expected a list"),
        ("dog: [[1]]\n", "dog: expected a list"),
        ("dog: [7]\n", "dog: 7 is no class, or range of classes, of the model's, which are 0 to 6"),
        ("dog: [2-1]\n", "dog: 2-1 is no class"),
        ("dog: [begle]\n", "dog: the model has no class 'begle'; did you mean beagle?"),
        ("bird: [crane]\n", "names several of the model's classes; take an index of 3, 4"),
        ("- dog\n", "expected one line a group"),
        ("", "expected one line a group"),
        ("dog: [1", "not YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "groups.yaml"
    file.write_text(text)
    with pytest.raises(RequestError) as caught:
        read_groups(str(file), NAMES)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"model.class_groups: {file}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        read_groups(str(tmp_path / "none.yaml"), NAMES)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_resnet", 64),  # affine
        ("test_convnext", 64),  # frozen
        ("test_vit", 160),  # attention
        ("torchvision/squeezenet1_1", 64),  # each cell rectified
    ],
)
def test_the_map_of_a_group_is_its_members_maps_by_their_shares(name: str, size: int) -> None:
    torch.manual_seed(0)
    settings = ModelSettings(name=name, input_size=size)
    classifier = load_classifier(settings)
    groups = ClassGroups(("few", "one", "many"), ((3, 5), (7,), tuple(range(100, 140))))
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    scores = classifier.scores(images)
    wanted = torch.tensor([[0, 1, 2], [2, 2, 0]])
    maps = MapMaker(CamSettings(), classifier.of_groups(groups)).maps(scores, wanted)
    every = torch.arange(140).expand(2, -1)
    single = MapMaker(CamSettings(), classifier).maps(scores, every)
    for image in range(2):
        for place in range(3):
            members = list(groups.members[int(wanted[image, place])])
            shares = scores.logits[image, members].softmax(dim=0)
            expected = (shares[:, None, None] * single[image, members]).sum(dim=0)
            spread = float(expected.max() - expected.min())
            torch.testing.assert_close(
                maps[image, place], expected, rtol=1e-4, atol=1e-4 * spread + 1e-7
            )
