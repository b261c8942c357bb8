"""Networks that answer otherwise: they work, or are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import cambox.models.build
from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.errors import RequestError
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.models.load import load_classifier


class Odd(nn.Module):
    """Convolutions, pooling and a linear layer, answering in a way of its own."""

    num_classes = 4

    def __init__(self, answer: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 16, stride=16)
        self.fc = nn.Linear(8, 4)
        self.answer = answer

    def forward(self, images: torch.Tensor) -> object:
        features = self.body(images).relu()
        return self.answer(self.fc(features.mean((2, 3))), features)


def classifier_with(module: nn.Module, **settings: object) -> Classifier:
    given = ModelSettings.model_validate({"name": "odd", "input_size": 64, **settings})
    return load_classifier(given, module=module.eval().requires_grad_(False))


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits, features: {"logits": logits},
        lambda logits, features: (logits, features),
        lambda logits, features: features,
        lambda logits, features: logits[:, 0],
    ],
    ids=["dict", "tuple", "map", "vector"],
)
def test_what_is_no_class_scores_is_refused(
    answer: Callable[[torch.Tensor, torch.Tensor], object],
) -> None:
    with pytest.raises(RequestError, match=r"gives no \(B, K\) class scores"):
        classifier_with(Odd(answer))


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RequestError, match="not finite"):
        classifier_with(Odd(lambda logits, features: logits / 0))


def test_a_network_without_named_halves_still_has_a_map() -> None:
    torch.manual_seed(0)
    module = Odd(lambda logits, features: logits)
    classifier = classifier_with(module)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        scores = classifier.scores(images)
        class_ids = torch.arange(4).expand(2, -1)
        maps = MapMaker(CamSettings(), classifier).maps(scores, class_ids)
        features = module.body(classifier.normalised(images)).relu()
    expected = torch.einsum("kc,bchw->bkhw", module.fc.weight, features)
    assert torch.allclose(maps, expected, atol=1e-4 * float(expected.abs().max()))


def test_a_network_that_only_its_pixels_explain_is_refused() -> None:
    module = Odd(lambda logits, features: logits * features.amax((1, 2, 3))[:, None])
    with pytest.raises(RequestError, match="gives no class activation map"):
        classifier_with(module)


def test_a_scripted_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = torch.jit.script(timm.create_model("test_resnet", num_classes=4).eval())
    monkeypatch.setattr(cambox.models.build, "_construct", lambda *_: scripted)
    with pytest.raises(RequestError, match="is a scripted module"):
        load_classifier(ModelSettings(name="test_resnet"))


def test_a_single_score_needs_a_sigmoid() -> None:
    kwargs = {"num_classes": 1}
    with pytest.raises(RequestError, match=r"model.activation: .* set sigmoid"):
        load_classifier(ModelSettings(name="test_resnet", kwargs=kwargs))
    settings = ModelSettings(name="test_resnet", kwargs=kwargs, activation="sigmoid")
    assert load_classifier(settings).class_count == 1


def test_weights_in_half_precision_are_read_into_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=4).state_dict()
    path = tmp_path / "half.safetensors"
    safetensors.torch.save_file({name: value.half() for name, value in state.items()}, path)
    settings = ModelSettings(name="test_resnet", kwargs={"num_classes": 4}, checkpoint=str(path))
    classifier = load_classifier(settings)
    assert {parameter.dtype for parameter in classifier.module.parameters()} == {torch.float32}
    weight = classifier.module.state_dict()["fc.weight"]
    assert torch.allclose(weight, state["fc.weight"].half().float())


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_a_half_precision_backbone_gives_nearly_the_same_map(name: str, precision: str) -> None:
    settings = ModelSettings(name=name)
    images = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    maps = []
    for kind in ("float32", precision):
        classifier = load_classifier(settings, precision=kind)  # type: ignore[arg-type]
        scores = classifier.scores(images)
        class_ids = torch.tensor([[1, 2], [3, 4]])
        maps.append(MapMaker(CamSettings(), classifier).maps(scores, class_ids).flatten(2))
        assert maps[-1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*maps, dim=2).min() > 0.99
