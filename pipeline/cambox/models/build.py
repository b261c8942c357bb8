"""A network by name, with its weights."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping

import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from cambox.config import ModelSettings
from cambox.console import one_line
from cambox.errors import RequestError
from cambox.sources.retry import from_storage
from cambox.sources.storage import locate

TORCHVISION = "torchvision/"
SEED_OF_RANDOM_WEIGHTS = 0


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
