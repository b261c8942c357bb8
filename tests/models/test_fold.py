"""With norms folded and convolutions packed it is the same network, or it is left as it was."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from cambox.config import ModelSettings
from cambox.models.build import build_network
from cambox.models.fold import TOLERANCE, fold_norms
from cambox.models.load import load_classifier
from cambox.models.onednn import pack_convolutions


def with_statistics(module: nn.Module) -> nn.Module:
    """Norms as after a training: means, variances and weights that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low, high in (
                (part.running_mean, -0.5, 0.5),
                (part.running_var, 0.5, 2.0),
                (part.weight, 0.5, 1.5),
                (part.bias, -0.5, 0.5),
            ):
                values.data.uniform_(low, high, generator=generator)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "kwargs", "norms_left"),
    [
        ("test_resnet", {}, 0),
        ("mobilenetv2_050", {"pad_type": "same"}, 0),
        ("test_efficientnet", {}, 0),
        ("mobilenetv3_small_050", {}, 0),
        ("test_vit", {}, 0),
    ],
)
def test_logits_and_features_stay_and_so_does_the_digest(
    name: str, kwargs: dict[str, object], norms_left: int
) -> None:
    settings = ModelSettings(name=name, kwargs=kwargs, input_size=96 if "vit" not in name else None)
    network, plain = (with_statistics(build_network(settings)) for _ in range(2))
    if name == "test_vit":
        for module in (network, plain):
            nn.init.trunc_normal_(
                module.head.weight, generator=torch.Generator().manual_seed(0), std=0.02
            )
    classifier = load_classifier(settings, module=network)
    norms = [part for part in classifier.module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == norms_left
    size = classifier.preprocessing
    for batch in (3, 1):
        images = np.random.default_rng(batch).integers(
            0, 256, (batch, size.height, size.width, 3), dtype=np.uint8
        )
        pixels = classifier.normalised(images).contiguous()
        with torch.inference_mode():
            features = plain.forward_features(pixels)
            logits = plain(pixels)
            scores = classifier.scores(images)
        spread = float(logits.max() - logits.min())
        assert (scores.logits - logits).abs().max() < 1e-5 * spread
        expected = classifier.head.grid.feature_map(features)
        if name != "test_vit":  # whose feature map is that before its last block
            assert (scores.feature_map - expected).abs().max() < 1e-4 * expected.abs().max()
    # The digest names the weights that were given, whatever became of them.
    assert classifier.weights_digest == load_classifier(settings, module=plain).weights_digest


class Branching(nn.Module):
    """A convolution whose output the norm and somebody else read, and a norm that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, bias=False)
        self.first_norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 1)
        self.twice = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 8, 1, bias=False)
        self.last_norm = BatchNormAct2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        raw = self.first(images)
        features = self.first_norm(raw) + 1e-9 * raw
        features = self.twice(self.twice(self.second(features)))
        features = self.last_norm(self.last(features))
        shortcut = self.second(features)
        shortcut += features
        return self.linear(self.relu(shortcut).mean(dim=(2, 3)))


def test_only_what_nobody_else_reads_is_folded() -> None:
    torch.manual_seed(0)
    module = with_statistics(Branching())
    images = torch.randn(2, 3, 12, 12)
    with torch.inference_mode():
        logits = module(images)
    assert fold_norms(module, images, logits) == 1
    # Although what the other reader adds would be lost in rounding.
    assert isinstance(module.first_norm, nn.BatchNorm2d)
    assert isinstance(module.twice, nn.BatchNorm2d)
    assert isinstance(module.last_norm, nn.ReLU)
    # The activation after an addition in place is not the convolution's.
    assert pack_convolutions(module, images, logits) == 1
    with torch.inference_mode():
        torch.testing.assert_close(module(images), logits)


def test_a_step_that_changes_the_logits_is_taken_back() -> None:
    torch.manual_seed(0)
    module = with_statistics(timm.create_model("test_resnet"))
    names = [name for name, _ in module.named_modules()]
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits = module(images)
    assert fold_norms(module, images, logits + logits.std() * torch.randn_like(logits)) == 0
    assert pack_convolutions(module, images, -logits) == 0
    assert [name for name, _ in module.named_modules()] == names
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())
    with torch.inference_mode():
        torch.testing.assert_close(module(images), logits)


@pytest.mark.parametrize("missing", ["the library", "the operators"])
def test_where_pytorch_has_no_onednn_the_network_runs_as_it_is(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ModelSettings(name="mobilenetv2_050", input_size=64)
    packed = load_classifier(settings)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with monkeypatch.context() as without:
        if missing == "the library":
            without.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        else:
            without.setattr(torch.ops, "mkldnn", SimpleNamespace())
        plain = load_classifier(settings)
        scores = plain.scores(images)
    assert [part for part in plain.module.modules() if "forward" in part.__dict__] == []
    expected = packed.scores(images)
    # Packed weights are summed in another order, which differs from processor to processor.
    for found, same in (
        (scores.feature_map, expected.feature_map),
        (scores.logits, expected.logits),
    ):
        assert float((found - same).abs().max()) <= TOLERANCE * float(same.std())


def test_gradients_pass_through_a_prepared_network() -> None:
    """Peers and tails differentiate it; they take the path without packed weights."""
    torch.manual_seed(0)
    module = with_statistics(timm.create_model("mobilenetv2_050"))
    images = torch.randn(2, 3, 64, 64)

    def gradient() -> torch.Tensor:
        leaf = images.clone().requires_grad_()
        module(leaf)[:, 3].sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    before = gradient()
    with torch.inference_mode():
        logits = module(images)
    assert fold_norms(module, images, logits) > 30
    assert pack_convolutions(module, images, logits) > 20
    torch.testing.assert_close(gradient(), before, rtol=1e-3, atol=1e-5)
