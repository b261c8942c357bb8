"""The same map as grad-cam and torchcam give, where theory says so."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchcam.methods import CAM

from pipeline.cams import class_score_maps
from pipeline.config import ModelSettings
from pipeline.models.classifier import load_classifier

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
