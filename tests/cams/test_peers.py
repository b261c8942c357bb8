"""The same map as grad-cam and torchcam give, where theory says so."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchcam.methods import CAM

from cambox.cams.score_maps import class_score_maps
from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.maps import MapMaker
from cambox.models.heads import PooledHead
from cambox.models.load import load_classifier

NETWORKS = [
    ("resnet18", "layer4"),
    ("mobilenetv2_100", "bn2"),
    ("swin_tiny_patch4_window7_224", "norm"),
]


@pytest.mark.parametrize(("name", "last_layer"), NETWORKS)
def test_grad_cam_at_the_last_feature_map_is_our_map(name: str, last_layer: str) -> None:
    """Grad-CAM's channel weight is the mean gradient, here the class weight over the cells."""
    classifier = load_classifier(ModelSettings(name=name), torch.device("cpu"), "float32")
    images = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    scores = classifier.scores(images)
    class_ids = scores.logits.topk(2).indices
    with torch.inference_mode():
        ours = class_score_maps(scores.feature_map, classifier.head.weight, class_ids)
    assert ours.is_inference()

    size = classifier.preprocessing
    pixels = (torch.from_numpy(images) / 255 - torch.tensor(size.mean)) / torch.tensor(size.std)
    pixels = pixels.permute(0, 3, 1, 2).contiguous()
    for parameter in classifier.module.parameters():
        parameter.requires_grad_(True)
    channels_last = classifier.head.grid.layout == "NHWC"
    peer = GradCAM(
        classifier.module,
        [classifier.module.get_submodule(last_layer)],
        reshape_transform=(lambda x: x.permute(0, 3, 1, 2)) if channels_last else None,
    )
    for rank in range(2):
        targets = [ClassifierOutputTarget(int(ids[rank])) for ids in class_ids]
        theirs = peer(pixels, targets)
        for image in range(3):
            rectified = ours[image, rank].relu().numpy()
            if rectified.max() == 0:
                assert theirs[image].max() == pytest.approx(0, abs=1e-3)
                continue
            upsampled = cv2.resize(rectified, (224, 224))
            correlation = np.corrcoef(upsampled.ravel(), theirs[image].ravel())[0, 1]
            assert correlation > 0.9999


@pytest.mark.parametrize(("name", "last_layer"), NETWORKS[:2])
def test_torchcams_cam_is_our_map(name: str, last_layer: str) -> None:
    classifier = load_classifier(ModelSettings(name=name), torch.device("cpu"), "float32")
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    scores = classifier.scores(images)
    size = classifier.preprocessing
    pixels = (torch.from_numpy(images) / 255 - torch.tensor(size.mean)) / torch.tensor(size.std)
    with torch.inference_mode(), CAM(classifier.module, target_layer=last_layer) as extractor:
        classifier.module(pixels.permute(0, 3, 1, 2))
        theirs = extractor(7, normalized=False)[0]
        ours = class_score_maps(scores.feature_map, classifier.head.weight, torch.tensor([[7]]))[
            :, 0
        ]
    assert torch.allclose(ours, theirs, atol=1e-5 * float(ours.abs().max()))


def grad_cam_weights(
    module: torch.nn.Module, layer: torch.nn.Module, pixels: torch.Tensor, class_id: int
) -> tuple[torch.Tensor, np.ndarray]:
    """grad-cam's rectified map (B, h, w) and its channel weights, by its own code."""
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    peer = GradCAM(module, [layer], reshape_transform=tokens_as_map)
    peer(pixels, [ClassifierOutputTarget(class_id)] * len(pixels))
    (activations,) = (value.numpy() for value in peer.activations_and_grads.activations)
    (gradients,) = (value.numpy() for value in peer.activations_and_grads.gradients)
    weights = peer.get_cam_weights(pixels, None, None, activations, gradients)
    return torch.from_numpy(activations), weights


def tokens_as_map(features: torch.Tensor) -> torch.Tensor:
    """The reshape that users of grad-cam write by hand."""
    if features.ndim == 4:
        return features
    side = int(features.shape[1] ** 0.5)
    cells = features[:, -side * side :]  # class token and registers stand before them
    return cells.transpose(1, 2).reshape(len(features), -1, side, side)


@pytest.mark.parametrize(
    ("name", "kwargs", "last_layer"),
    [
        ("test_convnext", {}, "stages.3"),
        ("test_vit2", {"class_token": False, "global_pool": "avg"}, "norm"),
    ],
)
def test_grad_cam_is_the_derivative_and_the_frozen_map_holds_the_norms_spread(
    name: str, kwargs: dict[str, object], last_layer: str
) -> None:
    """Behind a LayerNorm the two differ by one direction.

    Its derivative knows that a longer vector changes nothing, so it takes away the part of the
    frozen weights along the centred features: grad-cam's map has mean zero, where the frozen one
    adds up to the logit.
    """
    settings = ModelSettings(name=name, kwargs=kwargs)
    images = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    class_id = 3
    maker, scores, held = {}, {}, {}
    for rule in ("derivative", "frozen"):
        classifier = load_classifier(settings, torch.device("cpu"), "float32", rule)
        assert isinstance(classifier.head, PooledHead)
        scores[rule] = classifier.scores(images)
        maker[rule] = MapMaker(CamSettings(), classifier)
        pooled = scores[rule].feature_map.mean(dim=(2, 3))
        held[rule] = classifier.head.class_weights(pooled, torch.full((2, 1), class_id))[:, 0]
    ours = maker["derivative"].maps(scores["derivative"], torch.full((2, 1), class_id))[:, 0]
    module = classifier.module
    activations, weights = grad_cam_weights(
        module, module.get_submodule(last_layer), classifier.normalised(images), class_id
    )
    cells = activations.shape[2] * activations.shape[3]
    theirs = torch.einsum("bc,bchw->bhw", torch.from_numpy(weights), activations) * cells
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))

    centred = pooled - pooled.mean(dim=1, keepdim=True)
    along = (held["frozen"] * centred).sum(dim=1) / (centred.square().sum(dim=1))
    expected = held["frozen"] - along[:, None] * centred
    assert torch.allclose(held["derivative"], expected, atol=2e-3 * float(expected.abs().max()))
    assert ours.mean(dim=(1, 2)).abs().max() < 1e-2 * ours.abs().max()
