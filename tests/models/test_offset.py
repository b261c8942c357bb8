"""Where cells look: measured by mirror images, beside known geometry and the gradients' centre."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambox.config import ModelSettings
from cambox.models.classifier import Classifier
from cambox.models.load import load_classifier
from cambox.models.offset import (
    PICTURES_AT_ONCE,
    columns_apart,
    dead_leaves,
    measured_offset,
    with_offset,
)

# What a stack of stride-2 convolutions of 3 x 3 keeps of 32 pixels: (32 - 1) / 2 of them too far.
GEOMETRY = 31 / 64


@given(shift=st.floats(-1.5, 1.5), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_smooth_maps_lie_as_far_apart_as_they_were_sampled(shift: float, seed: int) -> None:
    """Waves of four columns and longer, so that samples tell all of them."""
    generator = np.random.default_rng(seed)
    waves = generator.uniform(0.03, 0.25, (1, 64, 1, 1, 6))
    turn = generator.uniform(0, 2 * np.pi, waves.shape)

    def at(columns: np.ndarray) -> torch.Tensor:
        places = np.broadcast_to(columns, (3, 8))[None, None, :, :, None]
        return torch.from_numpy(np.cos(2 * np.pi * waves * places + turn).sum(axis=4))

    columns = np.arange(8.0)
    found = columns_apart(at(columns), at(columns - shift))
    assert found is not None
    assert abs(found - shift) < 0.25


def test_maps_without_anything_in_common_are_not_compared() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 1, 32, 7, 7)
    assert columns_apart(first, second) is None
    assert columns_apart(torch.ones(1, 3, 7, 7), torch.ones(1, 3, 7, 7)) is None


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("resnet18", {}, -GEOMETRY),
        ("regnetx_002", {}, -GEOMETRY),
        ("tf_efficientnet_lite0", {}, GEOMETRY),
        ("swin_tiny_patch4_window7_224", {"depths": [1, 1, 1, 1]}, 0.0),
        ("convnext_atto", {}, 0.0),
    ],
)
def test_untrained_networks_look_where_their_padding_says(
    name: str, kwargs: dict[str, object], expected: float
) -> None:
    torch.manual_seed(0)
    classifier = load_classifier(ModelSettings(name=name, kwargs=kwargs, input_size=224))
    assert abs(measured_offset(classifier) - expected) <= 0.07


def test_a_map_of_few_columns_tells_nothing() -> None:
    classifier = load_classifier(ModelSettings(name="test_resnet", input_size=64))
    assert measured_offset(classifier) == 0
    assert with_offset(classifier, 0.3).offset == 0.3


@pytest.mark.parametrize(
    ("name", "weights", "kwargs"),
    [
        ("mobilenetv2_100", "mobilenetv2_100_coral_ptq", {"pad_type": "same", "bn_eps": 0.001}),
        ("mobilenetv1_100", "mobilenetv1_100_coral_qat", {"pad_type": "same", "bn_eps": 0.001}),
        ("tf_efficientnet_lite0", "efficientnet_lite0", {}),
        ("torchvision/squeezenet1_1", "squeezenet1_1_onnxzoo", {}),
    ],
)
def test_a_trained_network_looks_where_its_gradients_come_from(
    shared: Path, name: str, weights: str, kwargs: dict[str, object]
) -> None:
    checkpoint = str(shared / "weights" / f"{weights}.safetensors")
    settings = ModelSettings(name=name, checkpoint=checkpoint, kwargs=kwargs, input_size=224)
    classifier = load_classifier(settings)
    assert abs(measured_offset(classifier) - centre_of_gradients(classifier)) <= 0.12


def centre_of_gradients(classifier: Classifier) -> float:
    """How far right of its middle, in cells, the squared gradient of a cell has its middle."""
    assert classifier.split is not None
    torch.manual_seed(0)
    images = dead_leaves(PICTURES_AT_ONCE, 224, 224)
    batch = classifier.normalised(images).clone().requires_grad_()
    features = classifier.head.grid.feature_map(classifier.split.backbone(batch))
    rows, columns = features.shape[2:]
    far = []
    for row in (rows // 2 - 1, rows // 2):
        for column in (columns // 2 - 1, columns // 2):
            cell = features[:, :, row, column]
            (gradient,) = torch.autograd.grad(
                (cell * torch.randn_like(cell)).sum(), batch, retain_graph=True
            )
            weight = gradient.square().sum(dim=(0, 1, 2))
            middle = (weight * (torch.arange(224) + 0.5)).sum() / weight.sum()
            far.append(float(middle) * columns / 224 - (column + 0.5))
    return float(np.mean(far))
