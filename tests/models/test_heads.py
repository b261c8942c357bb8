"""Probed heads: the map of a class adds up to its logit, or the model is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import cambox.models.probe
from cambox.cams.score_maps import class_score_maps
from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.errors import RequestError
from cambox.maps import MapMaker
from cambox.models.build import build_network
from cambox.models.classifier import Classifier
from cambox.models.heads import TOLERANCE, AffineHead, HeadKind, Layout, PooledHead
from cambox.models.inspect import inspect_model
from cambox.models.load import load_classifier
from cambox.models.probe import probe
from cambox.models.split import Split

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
    return load_classifier(ModelSettings.model_validate({"name": name, **settings}))


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
        logits = build_network(ModelSettings(name=name, kwargs=kwargs))(pixels)
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


NOT_AFFINE = [
    ("test_convnext", {}, "frozen", (5, 5)),
    ("mobilenetv3_small_050", {}, "frozen", (7, 7)),
    ("test_mambaout", {}, "frozen", (5, 5)),
    ("torchvision/mobilenet_v3_small", {}, "frozen", (7, 7)),
    ("torchvision/convnext_tiny", {}, "frozen", (7, 7)),
    ("test_vit2", {"class_token": False, "global_pool": "avg"}, "frozen", (10, 10)),
    ("naflexvit_base_patch16_parfac_gap", {"depth": 2}, "frozen", (24, 24)),
    # An activation before the pooling: near zero it looks like none.
    ("efficientvit_b0", {}, "cells", (7, 7)),
    ("test_vit", {}, "attention", (10, 10)),
    ("torchvision/vit_b_16", {}, "attention", (14, 14)),
    ("deit_tiny_distilled_patch16_224", {"depth": 2}, "attention", (14, 14)),
    ("eva02_tiny_patch14_224", {"depth": 2, "num_classes": 9}, "frozen", (16, 16)),
    ("cait_xxs24_224", {"depth": 2}, "attention", (14, 14)),
    ("xcit_nano_12_p16_224", {"depth": 2}, "attention", (14, 14)),
    ("test_vit4", {"global_pool": "map", "class_token": False}, "attention", (10, 10)),
    ("torchvision/vgg11", {}, "cells", (7, 7)),
]


@pytest.mark.usefixtures("small_transformers")
@pytest.mark.parametrize(("name", "kwargs", "kind", "size"), NOT_AFFINE)
def test_maps_of_other_heads_add_up_to_the_logits_but_for_a_constant(
    name: str, kwargs: dict[str, object], kind: str, size: tuple[int, int]
) -> None:
    """The constant is computed apart from the map: what is left with no cell at all."""
    facts = inspect_model(name, kwargs)
    assert facts.kind == kind
    assert (facts.map_height, facts.map_width) == size
    assert facts.completeness_error is not None
    assert facts.completeness_error < 1e-4


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "torchvision/mobilenet_v3_small"])
def test_the_pipelines_own_scores_are_the_networks(name: str) -> None:
    """Also for a network that is run with the graph of its tail, and on every batch anew."""
    settings = ModelSettings(name=name)
    network = build_network(settings)
    expected = build_network(settings)
    if name == "test_vit":
        for module in (network, expected):
            module.head.weight.copy_(
                torch.linspace(-1, 1, module.head.weight.numel()).view_as(module.head.weight)
            )
    classifier = load_classifier(settings, module=network)
    for batch in (3, 1):
        images = noise(classifier, batch)
        with torch.inference_mode():
            scores = classifier.scores(images)
            logits = expected(classifier.normalised(images))
        assert torch.allclose(scores.logits, logits, atol=1e-4)


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
        probe(split, images, "x", (HeadKind.affine, HeadKind.frozen))


def test_a_kind_that_is_known_is_not_found_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device whose rounding would decide otherwise, close to the border."""
    affine = load("test_resnet", input_size=64)
    images = noise(affine)
    settings = ModelSettings(name="test_resnet", input_size=64)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(cambox.models.probe, "_affine_error", lambda *_: 2 * TOLERANCE)
        assert load_classifier(settings).head.kind == "frozen"
        again = load_classifier(settings, kind=HeadKind.affine).head
    assert isinstance(again, AffineHead)
    assert torch.equal(again.weight, affine.head.weight)
    frozen = load_classifier(settings, kind=HeadKind.frozen)
    assert frozen.head.kind == "frozen"
    class_ids = torch.tensor([[3, 5], [1, 2]])
    expected, maps = (
        MapMaker(CamSettings(), each).maps(each.scores(images), class_ids)
        for each in (affine, frozen)
    )
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("test_convnext", HeadKind.affine, "set derivative"),
        ("test_resnet", HeadKind.attention, "is of kind cells on this machine and attention"),
        ("test_vit", HeadKind.affine, "is of kind attention on this machine and affine"),
    ],
)
def test_a_known_kind_that_the_head_is_not_is_refused(
    name: str, kind: HeadKind, reason: str
) -> None:
    module = build_network(ModelSettings(name=name))
    if name == "test_vit":
        module.head.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RequestError, match=reason):
        load_classifier(ModelSettings(name=name), kind=kind, module=module)
