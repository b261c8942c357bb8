"""Probed heads: the map of a class adds up to its logit, or the model is refused."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from pipeline.cams import class_score_maps
from pipeline.config import ModelSettings
from pipeline.errors import RequestError
from pipeline.models.classifier import Classifier, load_classifier
from pipeline.models.grid import Layout
from pipeline.models.heads import AffineHead, PooledHead
from pipeline.models.probe import probe
from pipeline.models.split import Split

CPU = torch.device("cpu")
AFFINE = [
    ("resnet18", {}, Layout.channels_first),
    ("mobilenetv2_100", {}, Layout.channels_first),
    ("efficientnet_b0", {}, Layout.channels_first),
    ("densenet121", {}, Layout.channels_first),
    ("regnetx_002", {}, Layout.channels_first),
    ("swin_tiny_patch4_window7_224", {}, Layout.channels_last),
    ("test_vit", {"class_token": False, "global_pool": "avg", "fc_norm": False}, Layout.tokens),
    ("torchvision/squeezenet1_1", {}, Layout.channels_first),
    ("torchvision/resnet18", {}, Layout.channels_first),
    ("torchvision/densenet121", {}, Layout.channels_first),
    ("torchvision/swin_t", {}, Layout.channels_first),
    ("torchvision/shufflenet_v2_x0_5", {}, Layout.channels_first),
]


def load(name: str, **settings: object) -> Classifier:
    return load_classifier(ModelSettings.model_validate({"name": name, **settings}), CPU, "float32")


def noise(classifier: Classifier, batch: int = 2) -> np.ndarray:
    """Images of different brightness, contrast and grain."""
    size = classifier.preprocessing
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (batch, size.height, size.width, 3), dtype=np.uint8)
    images[0, : size.height // 2] //= 4
    return images


@pytest.mark.parametrize(("name", "kwargs", "layout"), AFFINE)
def test_maps_add_up_to_the_logits_of_the_whole_network(
    name: str, kwargs: dict[str, object], layout: Layout
) -> None:
    classifier = load(name, kwargs=kwargs)
    images = noise(classifier)
    scores = classifier.scores(images)
    size = classifier.preprocessing
    with torch.inference_mode():
        # The network called as its library would have it, on images normalised by torchvision.
        pixels = torchvision.transforms.functional.normalize(
            torch.from_numpy(images).permute(0, 3, 1, 2) / 255, size.mean, size.std
        )
        logits = classifier.module(pixels)
        class_ids = torch.arange(logits.shape[1]).expand(2, -1)
        maps = class_score_maps(
            scores.feature_map,
            classifier.head.weight,
            class_ids,
            classifier.head.bias if classifier.head.rectified else None,
        )
    spread = float(logits.max() - logits.min())
    assert classifier.head.grid.layout is layout
    # The probe itself tolerates more than this, and half of a wrong guess would be near 1.
    assert (scores.logits - logits).abs().max() < 1e-4 * spread
    summed = maps.mean(dim=(2, 3)) + classifier.head.constant
    assert (summed - logits).abs().max() < 1e-4 * spread
    assert maps.shape[2] * maps.shape[3] > 1


@pytest.mark.parametrize(
    ("name", "kwargs", "reason"),
    [
        ("resnet18", {"num_classes": 0}, "no classifier"),
        ("mixer_s32_224", {}, "head of zeros"),
        ("resnet18", {"no_such_argument": 1}, "model.kwargs"),
        ("resnet81", {}, "did you mean resnet18"),
        ("torchvision/resnet81", {}, "did you mean torchvision/resnet"),
    ],
)
def test_other_models_are_refused_with_the_reason(
    name: str, kwargs: dict[str, object], reason: str
) -> None:
    with pytest.raises(RequestError, match=reason) as refusal:
        load(name, kwargs=kwargs)
    assert "\n" not in str(refusal.value)


class FixedHead(nn.Module):
    """Average pooling and a linear layer over given features, on any layout."""

    def __init__(self, axes: tuple[int, ...], channels: int, power: float = 1.0) -> None:
        super().__init__()
        self.axes, self.power = axes, power
        self.linear = nn.Linear(channels, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pooled = features.mean(dim=self.axes)
        return self.linear(pooled.sign() * pooled.abs() ** self.power)


@pytest.mark.parametrize(
    ("shape", "axes", "layout", "size"),
    [
        ((2, 6, 3, 5), (2, 3), Layout.channels_first, (3, 5)),
        ((2, 3, 5, 6), (1, 2), Layout.channels_last, (3, 5)),
        ((2, 15, 6), (1,), Layout.tokens, (3, 5)),
        # Square features of as many channels as cells a side: only the arithmetic can tell.
        ((2, 6, 6, 6), (1, 2), Layout.channels_last, (6, 6)),
    ],
)
def test_the_layout_and_the_weights_are_found_by_arithmetic(
    shape: tuple[int, ...], axes: tuple[int, ...], layout: Layout, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    head = FixedHead(axes, 6)
    features = torch.randn(shape)
    split = Split(lambda images: features, head.requires_grad_(False))
    with torch.inference_mode():
        probed = probe(split, torch.zeros(2, 3, 30, 50), "x")
    assert isinstance(probed, AffineHead)
    assert probed.grid.layout is layout
    assert (probed.grid.height, probed.grid.width) == size or shape == (2, 6, 6, 6)
    assert torch.allclose(probed.weight, head.linear.weight, atol=1e-5)
    assert torch.allclose(probed.bias, head.linear.bias, atol=1e-6)


def test_what_no_holding_makes_affine_gives_its_derivative() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 6, 3, 5)
    head = FixedHead((2, 3), 6, 1.5).requires_grad_(False)
    split, images = Split(lambda images: features, head), torch.zeros(2, 3, 9, 9)
    with torch.inference_mode():
        probed = probe(split, images, "x")
    assert isinstance(probed, PooledHead)
    assert probed.kind == "derivative"
    pooled, classes = features.mean(dim=(2, 3)), torch.tensor([[0, 3], [1, 2]])
    slope = 1.5 * pooled.abs() ** 0.5  # of sign(v) |v| ** 1.5
    expected = head.linear.weight[classes] * slope[:, None]
    assert torch.allclose(probed.class_weights(pooled, classes), expected, atol=1e-5)
    with pytest.raises(RequestError, match="set derivative"), torch.inference_mode():
        probe(split, images, "x", "frozen")


def test_a_network_that_cannot_take_the_input_size_says_so() -> None:
    with pytest.raises(RequestError, match=r"model.input_size: .* does not run at 320 x 320"):
        load("levit_128s", input_size=320)


def test_swin_at_another_size_with_its_own_argument() -> None:
    classifier = load(
        "swin_tiny_patch4_window7_224", kwargs={"img_size": 256, "window_size": 8}, input_size=256
    )
    assert classifier.scores(noise(classifier)).feature_map.shape == (2, 768, 8, 8)


def test_random_weights_are_the_same_in_every_process() -> None:
    torch.manual_seed(5)
    first = load("test_resnet")
    torch.manual_seed(6)
    second = load("test_resnet")
    assert first.weights_digest == second.weights_digest


def test_preprocessing_is_the_models_own_unless_given() -> None:
    own = load("torchvision/inception_v3").preprocessing
    assert (own.height, own.width) == (299, 299)
    size = timm.data.resolve_model_data_config(timm.create_model("test_resnet"))["input_size"]
    given = load("test_resnet", input_size=[64, 96], mean=[0.1, 0.2, 0.3]).preprocessing
    assert (given.height, given.width) == (64, 96)
    assert given.mean == (0.1, 0.2, 0.3)
    assert load("test_resnet").preprocessing.height == size[1]


def test_images_of_another_size_are_refused_with_both_shapes() -> None:
    classifier = load("test_resnet", input_size=64)
    with pytest.raises(ValueError, match=r"\(B, 64, 64, 3\).*\(1, 32, 64, 3\)"):
        classifier.scores(np.zeros((1, 32, 64, 3), np.uint8))
