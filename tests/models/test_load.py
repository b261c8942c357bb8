"""What is loaded: sizes, preprocessing, weights, and at which precision it is probed."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

import cambox.models.load
from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.errors import RequestError
from cambox.maps import require_fitting
from cambox.models.build import build_network
from cambox.models.classifier import Classifier
from cambox.models.load import load_classifier, with_class_size

# Two blocks a stage, as windows are shifted in every second one, and a quarter of the channels.
SMALL_SWIN: dict[str, object] = {"depths": [2, 2, 2, 2], "embed_dim": 24}


def load(name: str, **settings: object) -> Classifier:
    return load_classifier(ModelSettings.model_validate({"name": name, **settings}))


def noise(classifier: Classifier) -> np.ndarray:
    size = classifier.preprocessing
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (2, size.height, size.width, 3), dtype=np.uint8)


def test_the_example_of_the_docs_runs() -> None:
    result = doctest.testmod(cambox.models.load)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("precision", ["tf32", "none"])
def test_a_gpu_is_probed_in_full_float32_whatever_was_set(precision: str) -> None:
    """In TF32 folded norms would be taken for another network, and the head for another kind."""
    module = build_network(ModelSettings(name="test_resnet"))
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    usual = [setting.fp32_precision for setting in settings]
    seen = []
    module.fc.register_forward_pre_hook(
        lambda *_: seen.append([setting.fp32_precision for setting in settings])
    )
    try:
        for setting in settings:
            setting.fp32_precision = precision
        given = [setting.fp32_precision for setting in settings]
        load_classifier(ModelSettings(name="test_resnet"), module=module)
        assert [setting.fp32_precision for setting in settings] == given
    finally:
        for setting, before in zip(settings, usual, strict=True):
            setting.fp32_precision = before
    assert len(seen) > 10
    assert all(of_pass == ["ieee", "ieee"] for of_pass in seen)


def test_a_network_that_cannot_take_the_input_size_says_so() -> None:
    with pytest.raises(RequestError, match=r"model.input_size: .* does not run at 320 x 320"):
        load("levit_128s", input_size=320)


def test_swin_at_another_size_with_its_own_argument() -> None:
    classifier = load(
        "swin_tiny_patch4_window7_224",
        kwargs=SMALL_SWIN | {"img_size": 256, "window_size": 8},
        input_size=256,
    )
    assert classifier.scores(noise(classifier)).feature_map.shape == (2, 192, 8, 8)


@pytest.mark.parametrize(
    ("name", "kwargs", "size", "cells"),
    [
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, 448, (14, 14)),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, [256, 320], (8, 10)),
        ("test_vit", {"depth": 2}, 192, (12, 12)),
    ],
)
def test_one_setting_makes_the_map_finer(
    name: str, kwargs: dict[str, object], size: int | list[int], cells: tuple[int, int]
) -> None:
    settings = ModelSettings.model_validate({"name": name, "input_size": size, "kwargs": kwargs})
    network = build_network(settings)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)
    grid = load_classifier(settings, module=network).head.grid
    assert (grid.height, grid.width) == cells


@pytest.mark.usefixtures("small_transformers")
def test_resampled_positions_of_a_torchvision_transformer_are_the_librarys() -> None:
    settings = ModelSettings(name="torchvision/vit_b_16", input_size=256)
    network = build_network(settings)
    network.heads.head.weight.normal_(std=0.02)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    classifier = load_classifier(settings, module=network)
    expected = torchvision.models.vit_b_16(image_size=256).eval()
    expected.load_state_dict(
        torchvision.models.vision_transformer.interpolate_embeddings(256, 16, state)
    )
    images = noise(classifier)
    with torch.inference_mode():
        logits = expected(classifier.normalised(images))
    assert torch.allclose(classifier.scores(images).logits, logits, atol=1e-5)
    assert (classifier.head.grid.height, classifier.head.grid.width) == (16, 16)


def test_a_size_that_would_cut_a_patch_is_refused() -> None:
    with pytest.raises(RequestError, match=r"model.input_size: test_vit .* 16 x 16 pixels"):
        load("test_vit", input_size=100)


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


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "torchvision/squeezenet1_1"])
def test_logits_are_those_of_the_smaller_image_and_features_of_the_larger(name: str) -> None:
    large = load(name, input_size=128)
    images = noise(large)
    plain, sized = large.scores(images), with_class_size(large, 64, name).scores(images)
    torch.testing.assert_close(sized.feature_map, plain.feature_map)
    # The network itself, on the smaller picture.
    mean, std = (
        torch.tensor(part)[:, None, None]
        for part in (large.preprocessing.mean, large.preprocessing.std)
    )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    small = F.interpolate((pixels - mean) / std, size=(64, 64), mode="bilinear", antialias=True)
    with torch.inference_mode():
        expected = large.module(small)
    torch.testing.assert_close(sized.logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(sized.logits, plain.logits, atol=1e-3)


def test_a_network_of_one_size_says_so() -> None:
    vit = load("vit_tiny_patch16_224")
    with pytest.raises(RequestError, match=r"model\.class_input_size: vit_tiny.*does not run"):
        with_class_size(vit, 112, "vit_tiny_patch16_224")


def test_thresholded_pooling_reads_classes_off_the_maps_pass() -> None:
    sized = with_class_size(load("resnet18", input_size=128), 64, "resnet18")
    settings = CamSettings.model_validate({"pooling": {"kind": "thresholded"}})
    with pytest.raises(RequestError, match=r"model\.class_input_size"):
        require_fitting(settings, sized)
