"""A network by name, with its weights."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from cambox.config import LOCAL_DIR, ModelSettings, source_of
from cambox.console import one_line
from cambox.errors import RequestError
from cambox.models.checkpoint import Tensors, read_weights
from cambox.models.hub import TORCHVISION_HUB, answers, offline_unless_it_answers

LOG = logging.getLogger(__name__)

TORCHVISION = "torchvision/"
SEED_OF_RANDOM_WEIGHTS = 0
COUNT_OF_BATCHES = "num_batches_tracked"


def build_network(settings: ModelSettings) -> nn.Module:
    """Build a network of timm or torchvision in eval mode and load its weights.

    The number of its classes and of its input's channels are those of the checkpoint, unless
    ``kwargs`` say otherwise. Without weights they are random, the same in every process. What was
    read off the checkpoint is logged as information.

    Raises:
        RequestError: unknown name, wrong kwargs, or weights that do not fit or cannot be had.
    """
    _require_known(settings.name)
    module = _built(settings, settings.kwargs)
    if settings.checkpoint is not None:
        expected = module.state_dict()
        weights = read_weights(settings.checkpoint, expected, settings.averaged)
        read_off = _read_off(weights.tensors, expected, settings)
        if "in_chans" in read_off and settings.name.startswith(TORCHVISION):
            raise RequestError(
                f"model.checkpoint: {settings.checkpoint} takes {read_off['in_chans']} channels, "
                f"and the networks of torchvision take 3; repeat its first layer's weights over "
                f"3 channels, each divided by 3, and save that"
            )
        if read_off:
            module = _built(settings, settings.kwargs | read_off)
        _load(module, weights.tensors, settings)
        for remark in weights.remarks:
            LOG.info(remark)
        for name, value in read_off.items():
            LOG.info(f"model.kwargs: {name} is {value}, as in {settings.checkpoint}")
    return module.eval().requires_grad_(False)


def torchvision_models() -> list[str]:
    """torchvision's image classifiers, each as ``torchvision/<name>``."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return [TORCHVISION + name for name in names if not name.startswith("quantized_")]


def _built(settings: ModelSettings, kwargs: Mapping[str, Any]) -> nn.Module:
    name, silent = settings.name, None
    with ExitStack() as meanwhile:
        meanwhile.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(SEED_OF_RANDOM_WEIGHTS)
        if settings.from_hub:
            silent = meanwhile.enter_context(offline_unless_it_answers())
        try:
            module = _construct(settings, kwargs)
        except Exception as error:
            of_library = settings.from_library or settings.source is not None
            if of_library and isinstance(error, OSError | RuntimeError):
                raise RequestError(_not_had(settings, silent, one_line(error, 200))) from error
            if not (kwargs or isinstance(error, TypeError | ValueError | AssertionError)):
                raise
            # A constructor that is given something unforeseen raises anything.
            raise RequestError(
                f"model.kwargs: {name} does not take them: {type(error).__name__}: "
                f"{one_line(error, 200)}"
            ) from error
    if isinstance(module, torch.jit.ScriptModule):
        raise RequestError(
            f"model.name: {name} is a scripted module, which can be neither cut nor held; "
            f"register the module that was scripted"
        )
    return module


def _not_had(settings: ModelSettings, silent: str | None, why: str) -> str:
    if settings.source == LOCAL_DIR:
        return (
            f"model.name: {settings.name} cannot be read ({why}); name a folder with the "
            f"config.json and the weights that timm saves"
        )
    key = "pretrained" if settings.source is None else "name"
    why = f"{silent} does not answer" if silent else why
    return (
        f"model.{key}: {settings.name} cannot be had from the hub ({why}); download its weights "
        f"once where there is a network, and set model.checkpoint"
    )


def _construct(settings: ModelSettings, kwargs: Mapping[str, Any]) -> nn.Module:
    name, pretrained = settings.name, settings.from_library
    module: nn.Module
    if name.startswith(TORCHVISION):
        name, weights = name.removeprefix(TORCHVISION), "DEFAULT" if pretrained else None
        if pretrained:
            file = torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
            cached = Path(torch.hub.get_dir(), "checkpoints", file).is_file()
            if not cached and not answers(TORCHVISION_HUB):
                raise OSError(f"{TORCHVISION_HUB} does not answer")
        module = torchvision.models.get_model(name, weights=weights, **kwargs)
    else:
        module = timm.create_model(name, pretrained=pretrained, **kwargs)
    return module


def _require_known(name: str) -> None:
    if timm.is_model(name) or source_of(name) is not None:
        return
    of_torchvision = name.startswith(TORCHVISION)
    known = torchvision_models() if of_torchvision else timm.list_models()
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(known)} to choose from"
    library = "torchvision" if of_torchvision else "timm"
    raise RequestError(f"model.name: {library} has no classifier {name!r}; {hint}")


def _read_off(tensors: Tensors, expected: Tensors, settings: ModelSettings) -> dict[str, int]:
    """The constructor's arguments that make up for all shapes that differ, where there are such."""
    given = {name: list(tensors[name].shape) for name in expected if name in tensors}
    shapes = {name: list(expected[name].shape) for name in given}
    differ = [name for name in given if given[name] != shapes[name]]
    # The last layer has a row for each class, the first a slice for each channel.
    of_classes = {
        given[name][0] for name in differ if given[name][1:] == shapes[name][1:] and given[name]
    }
    of_channels = {
        given[name][1]
        for name in differ
        if len(given[name]) == len(shapes[name]) == 4
        and [given[name][0], *given[name][2:]] == [shapes[name][0], *shapes[name][2:]]
    }
    found = {"num_classes": of_classes, "in_chans": of_channels}
    return {
        argument: values.pop()
        for argument, values in found.items()
        if len(values) == 1 and argument not in settings.kwargs
    }


def _load(module: nn.Module, tensors: Tensors, settings: ModelSettings) -> None:
    state, expected, uri = dict(tensors), module.state_dict(), settings.checkpoint
    advice = "check model.name and model.kwargs"
    for name, tensor in expected.items():
        shape = list(tensor.shape)
        if name not in state and name.endswith(COUNT_OF_BATCHES):
            state[name] = tensor  # only training needs it
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
