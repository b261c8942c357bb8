"""A network by name, with its weights, and what it expects its images to be."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import timm
import timm.data
import torch
import torchvision
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from cambox.config import ModelSettings
from cambox.console import one_line
from cambox.errors import RequestError
from cambox.sources.retry import from_storage
from cambox.sources.storage import locate

TORCHVISION = "torchvision/"
SEED_OF_RANDOM_WEIGHTS = 0
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def build_network(settings: ModelSettings) -> nn.Module:
    """Build a network of timm or torchvision in eval mode and load its weights.

    Without a checkpoint or ``pretrained`` the weights are random, the same in every process.

    Raises:
        RequestError: unknown name, wrong kwargs, or weights that do not fit or cannot be had.
    """
    name = settings.name
    _require_known(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED_OF_RANDOM_WEIGHTS)
        try:
            module = _construct(settings)
        except (TypeError, ValueError, AssertionError) as error:
            raise RequestError(
                f"model.kwargs: {name} does not take them: {one_line(error, 200)}"
            ) from error
        except (OSError, RuntimeError) as error:
            if not settings.pretrained:
                raise
            raise RequestError(
                f"model.pretrained: the weights of {name} cannot be had from the hub "
                f"({one_line(error, 200)}); download them once and set model.checkpoint"
            ) from error
    if isinstance(module, torch.jit.ScriptModule):
        raise RequestError(
            f"model.name: {name} is a scripted module, which can be neither cut nor held; "
            f"register the module that was scripted"
        )
    if settings.checkpoint is not None:
        _load(module, settings.checkpoint)
    return module.eval().requires_grad_(False)


def torchvision_models() -> list[str]:
    """torchvision's image classifiers, each as ``torchvision/<name>``."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return [TORCHVISION + name for name in names if not name.startswith("quantized_")]


def _construct(settings: ModelSettings) -> nn.Module:
    name, pretrained, kwargs = settings.name, settings.pretrained, settings.kwargs
    module: nn.Module
    if name.startswith(TORCHVISION):
        name, weights = name.removeprefix(TORCHVISION), "DEFAULT" if pretrained else None
        module = torchvision.models.get_model(name, weights=weights, **kwargs)
    else:
        module = timm.create_model(name, pretrained=pretrained, **kwargs)
    return module


def _require_known(name: str) -> None:
    if timm.is_model(name):
        return
    of_torchvision = name.startswith(TORCHVISION)
    known = torchvision_models() if of_torchvision else timm.list_models()
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(known)} to choose from"
    library = "torchvision" if of_torchvision else "timm"
    raise RequestError(f"model.name: {library} has no classifier {name!r}; {hint}")


def _load(module: nn.Module, uri: str) -> None:
    state, expected = _unwrap(_read(uri), uri), module.state_dict()
    advice = "check model.name and model.kwargs"
    for name, tensor in expected.items():
        shape = list(tensor.shape)
        if name not in state:
            raise RequestError(
                f"model.checkpoint: {uri} has no tensor {name} {shape}; it is of another network, "
                f"{advice}"
            )
        if list(state[name].shape) != shape:
            raise RequestError(
                f"model.checkpoint: {uri} has {name} of shape {list(state[name].shape)}, the "
                f"model expects {shape}; {advice} (such as num_classes)"
            )
    unexpected = next((name for name in state if name not in expected), None)
    if unexpected is not None:
        raise RequestError(
            f"model.checkpoint: {uri} has a tensor {unexpected} that the model does not; {advice}"
        )
    module.load_state_dict(state, strict=True)


def _read(uri: str) -> object:
    filesystem, path = locate(uri)
    try:
        data: bytes = from_storage(uri, lambda: filesystem.cat_file(path))
    except OSError as error:
        raise RequestError(f"model.checkpoint: {uri} cannot be read: {error}") from error
    try:
        if uri.endswith(".safetensors"):
            return safetensors.torch.load(data)
        # weights_only: a checkpoint is data; one that would run code is refused.
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # each format has many kinds of its own for a bad file
        raise RequestError(
            f"model.checkpoint: {uri} is not a safetensors or weights-only .pth file: "
            f"{one_line(error, 200)}"
        ) from error


def _unwrap(state: object, uri: str) -> Mapping[str, torch.Tensor]:
    """The tensors of a checkpoint, out of the wrappings that training scripts put them in."""
    for wrapping in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapping), Mapping):
            state = state[wrapping]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise RequestError(f"model.checkpoint: {uri} holds no mapping of names to tensors")
    prefix = "module."
    if state and all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


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


def resolve_preprocessing(settings: ModelSettings, module: nn.Module) -> Preprocessing:
    """The model's own preprocessing, overridden by what the configuration gives."""
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
    return Preprocessing(height, width, settings.mean or mean, settings.std or std)


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
