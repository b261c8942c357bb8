"""What a network expects its images to be, and the network made to fit another size."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import timm.data
import torchvision
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from cambox.config import ModelSettings
from cambox.console import one_line
from cambox.errors import RequestError
from cambox.models.build import TORCHVISION

LOG = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """The whole image, squashed to the input size, then ``(value / 255 - mean) / std``.

    Nothing is cropped, so that a box can reach the border of the image.

    Attributes:
        height, width: of the network's input, in pixels.
        mean, std: per RGB channel, for values in 0..1; or one number each: of the grey image.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grey."""
        return len(self.mean)


def resolve_preprocessing(settings: ModelSettings, module: nn.Module) -> Preprocessing:
    """The model's own preprocessing, overridden by what the configuration gives.

    Raises:
        RequestError: the network takes neither 3 channels nor 1.
    """
    height, width, mean, std = 224, 224, IMAGENET_MEAN, IMAGENET_STD
    if not settings.name.startswith(TORCHVISION):
        own = timm.data.resolve_model_data_config(module)
        height, width = own["input_size"][1:]
        mean, std = tuple(own["mean"]), tuple(own["std"])
    else:
        weights = torchvision.models.get_model_weights(settings.name.removeprefix(TORCHVISION))
        if len(weights):
            transforms = weights.DEFAULT.transforms()
            height = width = transforms.crop_size[0]
            mean, std = tuple(transforms.mean), tuple(transforms.std)
    if isinstance(settings.input_size, int):
        height = width = settings.input_size
    elif settings.input_size is not None:
        height, width = settings.input_size
    mean, std = settings.mean or mean, settings.std or std
    channels = _channels(module)
    if channels == 3:
        return Preprocessing(height, width, mean, std)
    if channels != 1:
        raise RequestError(
            f"model.name: {settings.name} takes {channels} channels, and pictures are read as RGB; "
            f"take a network of 3 channels, or of 1, which is given them as grey"
        )
    of_grey, spread = sum(mean) / len(mean), sum(std) / len(std)
    LOG.info(
        f"model.name: {settings.name} is given grey images, of mean {of_grey:.3g} and std "
        f"{spread:.3g}"
    )
    return Preprocessing(height, width, (of_grey,), (spread,))


def _channels(module: nn.Module) -> int:
    """Of the input: what the first convolution takes; RGB where there is none."""
    convolutions = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    first = next(convolutions, None)
    return 3 if first is None else first.in_channels


def fit_to_input_size(module: nn.Module, height: int, width: int, name: str) -> None:
    """Resample a network's position encodings and set its windows, in place, where it has them.

    Convolutional networks take any size as they are, and stay so.

    Raises:
        RequestError: the network cannot take the size.
    """
    resize = getattr(module, "set_input_size", None)  # of timm's
    try:
        if callable(resize):
            _require_whole_patches(module, height, width)
            resize(img_size=(height, width))
        elif isinstance(module, VisionTransformer) and module.image_size != height:
            _resample(module, height, width)
    except (AssertionError, ValueError, RuntimeError) as error:
        reason = one_line(error, 200) if str(error) else "its grid does not fit"
        raise RequestError(
            f"model.input_size: {name} cannot take {height} x {width}: {reason}; take a multiple "
            f"of its patch (and window) size"
        ) from error


def _require_whole_patches(module: nn.Module, height: int, width: int) -> None:
    """What is left over of the last patch would be cut off, and boxes would be misplaced."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and (height % patch[0] or width % patch[1]):
        raise ValueError(f"its patches are {patch[0]} x {patch[1]} pixels")


def _resample(module: VisionTransformer, height: int, width: int) -> None:
    if height != width or height % module.patch_size:
        raise ValueError(f"it takes squares of a multiple of {module.patch_size} pixels")
    state = interpolate_embeddings(height, module.patch_size, module.state_dict())
    # Nothing else in the network depends on the size.
    module.image_size = height
    module.seq_length = (height // module.patch_size) ** 2 + 1
    module.encoder.pos_embedding = nn.Parameter(state["encoder.pos_embedding"], requires_grad=False)
