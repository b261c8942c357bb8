"""What a classifier expects its images to be."""

from __future__ import annotations

from dataclasses import dataclass

import timm.data
import torchvision

from cambox.config import ModelSettings
from cambox.models.build import TORCHVISION, Network

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """The whole image, squashed to the input size, then ``(value / 255 - mean) / std``.

    Nothing is cropped, so that a box can reach the border of the image.

    Attributes:
        height, width: of the network's input, in pixels.
        mean, std: per RGB channel, for values in 0..1.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def resolve_preprocessing(settings: ModelSettings, network: Network) -> Preprocessing:
    """The model's own preprocessing, overridden by what the configuration gives."""
    if network.library == "timm":
        own = timm.data.resolve_model_data_config(network.module)
        (height, width), mean, std = own["input_size"][1:], own["mean"], own["std"]
    else:
        height, width, mean, std = _torchvision_preprocessing(settings.name)
    if isinstance(settings.input_size, int):
        height = width = settings.input_size
    elif settings.input_size is not None:
        height, width = settings.input_size
    return Preprocessing(height, width, tuple(settings.mean or mean), tuple(settings.std or std))


def _torchvision_preprocessing(
    name: str,
) -> tuple[int, int, tuple[float, ...], tuple[float, ...]]:
    weights = torchvision.models.get_model_weights(name.removeprefix(TORCHVISION))
    if not len(weights):
        return 224, 224, IMAGENET_MEAN, IMAGENET_STD
    transforms = weights.DEFAULT.transforms()
    side = transforms.crop_size[0]
    return side, side, tuple(transforms.mean), tuple(transforms.std)
