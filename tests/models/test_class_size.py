"""Classes from a second pass at another size than the maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cambox.config import CamSettings, ModelSettings
from cambox.errors import RequestError
from cambox.maps import require_fitting
from cambox.models.classifier import Classifier, load_classifier, with_class_size

CPU = torch.device("cpu")


def classifier(name: str, size: int) -> Classifier:
    torch.manual_seed(0)
    return load_classifier(ModelSettings(name=name, input_size=size), CPU, "float32")


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "torchvision/squeezenet1_1"])
def test_logits_are_those_of_the_smaller_image_and_features_of_the_larger(name: str) -> None:
    large = classifier(name, 128)
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
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
    vit = classifier("vit_tiny_patch16_224", 224)
    with pytest.raises(RequestError, match=r"model\.class_input_size: vit_tiny.*does not run"):
        with_class_size(vit, 112, "vit_tiny_patch16_224")


def test_thresholded_pooling_reads_classes_off_the_maps_pass() -> None:
    sized = with_class_size(classifier("resnet18", 128), 64, "resnet18")
    settings = CamSettings.model_validate({"pooling": {"kind": "thresholded"}})
    with pytest.raises(RequestError, match=r"model\.class_input_size"):
        require_fitting(settings, sized)
