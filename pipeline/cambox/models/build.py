"""A network by name, with its weights."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from cambox.config import ModelSettings
from cambox.errors import RequestError
from cambox.sources.retry import from_storage
from cambox.sources.storage import locate

TORCHVISION = "torchvision/"
SEED_OF_RANDOM_WEIGHTS = 0


@dataclass(frozen=True)
class Network:
    """A built network in eval mode, and the library that knows how to take it apart."""

    module: nn.Module
    library: Literal["timm", "torchvision"]


def build_network(settings: ModelSettings) -> Network:
    """Build the network and load its weights.

    Without a checkpoint or ``pretrained`` the weights are random, the same in every process.

    Raises:
        RequestError: unknown name, wrong kwargs, or weights that do not fit or cannot be had.
    """
    library: Literal["timm", "torchvision"] = "timm"
    if settings.name.startswith(TORCHVISION):
        library = "torchvision"
    _require_known(settings.name, library)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED_OF_RANDOM_WEIGHTS)
        try:
            module = _construct(settings, library)
        except (TypeError, ValueError, AssertionError) as error:
            raise RequestError(
                f"model.kwargs: {settings.name} does not take them: {_one_line(error)}"
            ) from error
        except (OSError, RuntimeError) as error:
            if not settings.pretrained:
                raise
            raise RequestError(
                f"model.pretrained: the weights of {settings.name} cannot be had from the hub "
                f"({_one_line(error)}); download them once and set model.checkpoint"
            ) from error
    if isinstance(module, torch.jit.ScriptModule):
        raise RequestError(
            f"model.name: {settings.name} is a scripted module, which can be neither cut nor held; "
            f"register the module that was scripted"
        )
    if settings.checkpoint is not None:
        _load(module, settings.checkpoint)
    module.eval().requires_grad_(False)
    return Network(module, library)


def _construct(settings: ModelSettings, library: str) -> nn.Module:
    if library == "timm":
        module: nn.Module = timm.create_model(
            settings.name, pretrained=settings.pretrained, **settings.kwargs
        )
        return module
    weights = "DEFAULT" if settings.pretrained else None
    name = settings.name.removeprefix(TORCHVISION)
    built: nn.Module = torchvision.models.get_model(name, weights=weights, **settings.kwargs)
    return built


def _require_known(name: str, library: str) -> None:
    if library == "timm":
        if timm.is_model(name):
            return
        known = timm.list_models()
    else:
        known = [TORCHVISION + model for model in classification_models()]
        if name in known:
            return
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(known)} to choose from"
    raise RequestError(f"model.name: {library} has no classifier {name!r}; {hint}")


def classification_models() -> list[str]:
    """torchvision's image classifiers, by name."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if not name.startswith("quantized_")]


def _load(module: nn.Module, uri: str) -> None:
    state = _unwrap(_read(uri), uri)
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise RequestError(
                f"model.checkpoint: {uri} has no tensor {name} {list(tensor.shape)}; "
                f"it is of another network, check model.name and model.kwargs"
            )
        if state[name].shape != tensor.shape:
            raise RequestError(
                f"model.checkpoint: {uri} has {name} of shape {list(state[name].shape)}, the "
                f"model expects {list(tensor.shape)}; check model.name and model.kwargs "
                f"(such as num_classes)"
            )
    unexpected = next((name for name in state if name not in expected), None)
    if unexpected is not None:
        raise RequestError(
            f"model.checkpoint: {uri} has a tensor {unexpected} that the model does not; "
            f"check model.name and model.kwargs"
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
            f"{_one_line(error)}"
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
