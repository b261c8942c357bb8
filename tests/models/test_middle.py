"""Middle layers are found without their names, and maps refined along them follow the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.errors import RequestError
from cambox.maps import MapMaker
from cambox.models.classifier import Classifier
from cambox.models.load import load_classifier
from cambox.models.middle import with_middle_layers


def classifier(name: str, **settings: object) -> Classifier:
    return load_classifier(ModelSettings.model_validate({"name": name, **settings}))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mobilenetv2_100", {"blocks.2", "blocks.3", "blocks.4"}),
        ("resnet18", {"layer2", "layer3"}),
        ("torchvision/resnet18", {"layer2.1", "layer3.1"}),
        ("convnext_atto", {"stages.1", "stages.2"}),
        ("swin_tiny_patch4_window7_224", {"layers.1", "layers.2"}),
        ("torchvision/swin_t", {"features.3", "features.5"}),
    ],
)
def test_the_last_module_of_each_stage_is_a_middle_layer(name: str, layers: set[str]) -> None:
    # Of the published architectures: strides 8 and 16, before the last stage.
    found = with_middle_layers(classifier(name), 3)
    assert {layer.name for layer in found.middle} == layers
    shape = (1, found.preprocessing.height, found.preprocessing.width, 3)
    middle = found.scores(np.zeros(shape, dtype=np.uint8)).middle
    assert [224 // features.shape[2] for features in middle] in ([8, 16], [8, 16, 16])
    assert all(features.shape[2] == features.shape[3] for features in middle)


def test_what_runs_after_the_last_feature_map_is_no_middle_layer() -> None:
    # SqueezeNet's classifier is a convolution that keeps the grid, with a channel for each class.
    found = with_middle_layers(classifier("torchvision/squeezenet1_1", input_size=448), 9)
    assert {layer.name.split(".")[0] for layer in found.middle} == {"features"}


def test_fewer_layers_are_the_last_ones() -> None:
    found = with_middle_layers(classifier("mobilenetv2_100"), 1)
    assert [layer.name for layer in found.middle] == ["blocks.4"]


def test_a_transformer_of_one_stage_is_refused() -> None:
    with pytest.raises(RequestError, match=r"cam\.refine\.steps.*set it to 0"):
        with_middle_layers(classifier("vit_tiny_patch16_224"), 3)


def test_without_refinement_nothing_is_recorded() -> None:
    plain = classifier("test_resnet")
    shape = (1, plain.preprocessing.height, plain.preprocessing.width, 3)
    assert plain.scores(np.zeros(shape, dtype=np.uint8)).middle == ()


def test_refined_maps_follow_the_formula() -> None:
    """Against hooks on named layers of the network and the formula, cell by cell."""
    network = with_middle_layers(classifier("resnet18", input_size=128), 3)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    class_ids = torch.tensor([[1, 5], [7, 2]])
    taken: list[torch.Tensor] = []
    for layer in (network.module.layer2, network.module.layer3):
        layer.register_forward_hook(lambda _module, _args, output: taken.append(output))  # type: ignore[union-attr,arg-type]
    scores = network.scores(images)
    plain = MapMaker(CamSettings(), network).maps(scores, class_ids)
    wanted = {"steps": 2, "power": 3.0, "feature_power": 0.5}
    settings = CamSettings.model_validate({"refine": wanted})
    refined = MapMaker(settings, network).maps(scores, class_ids)
    assert refined.shape == (2, 2, 8, 8)
    for image in range(2):
        likeness = torch.zeros(64, 64)
        # Of 128 and 256 channels, 128 are compared.
        for features in (taken[0], taken[1][:, ::2]):
            centred = features[image] - features[image].mean(dim=(1, 2), keepdim=True)
            rooted = centred.abs().sqrt() * torch.sign(centred)
            small = F.interpolate(rooted[None], size=(8, 8), mode="bilinear")[0].flatten(1)
            for one in range(64):
                likeness[one] += F.cosine_similarity(small, small[:, one : one + 1], dim=0) / 2
        weight = likeness.clamp(min=0) ** 3
        weight /= weight.sum(dim=1, keepdim=True)
        for place in range(2):
            given = F.interpolate(
                plain[image : image + 1, place : place + 1], size=(8, 8), mode="bilinear"
            )
            expected = weight @ weight @ given.flatten()
            torch.testing.assert_close(
                refined[image, place].flatten(), expected, rtol=1e-4, atol=1e-5
            )


def test_the_grid_keeps_the_aspect_of_the_input() -> None:
    network = with_middle_layers(classifier("resnet18", input_size=[128, 192]), 3)
    images = np.random.default_rng(0).integers(0, 256, (1, 128, 192, 3), dtype=np.uint8)
    settings = CamSettings.model_validate({"refine": {"steps": 1, "cells": 24}})
    maps = MapMaker(settings, network).maps(network.scores(images), torch.tensor([[3]]))
    assert maps.shape == (1, 1, 16, 24)
