"""What a model is to this pipeline: the kind of its head, its map, what the map costs.

``cambox models`` prints it for models by name.
"""

from __future__ import annotations

import fnmatch
import json
import statistics
import timeit
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import timm
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from cambox.config import ModelSettings
from cambox.config_cam import CamSettings
from cambox.console import say
from cambox.errors import RequestError
from cambox.maps import MapMaker
from cambox.models.build import build_network, torchvision_models
from cambox.models.classifier import Classifier, Scores
from cambox.models.heads import AffineHead, HeadKind, PooledHead, TailHead, sum_error
from cambox.models.load import load_classifier
from cambox.models.tail import tail_constant

BATCH = 2
CLASSES = 5
REPEATS = 3


@dataclass(frozen=True)
class ModelFacts:
    """What was measured of one model.

    Attributes:
        parameters: how many numbers its weights are.
        map_height, map_width: in cells.
        cut: for maps through a tail, the module where it begins.
        completeness_error: largest |mean of map + constant - logit| as a share of the logits'
            spread; None for a derivative, which promises no sum.
        map_cost: time of five maps as a share of the time of a plain forward pass.
    """

    name: str
    kind: HeadKind
    layout: str
    input_height: int
    input_width: int
    map_height: int
    map_width: int
    cut: str | None
    parameters: int
    completeness_error: float | None
    map_cost: float


@dataclass(frozen=True)
class RefusedModel:
    """A model without a map, and why."""

    name: str
    reason: str


def inspect_model(
    name: str, kwargs: dict[str, Any] | None = None, input_size: int | None = None
) -> ModelFacts:
    """Build a model with random weights, probe it and measure its maps on the CPU.

    Parameters that start as zeros (last layers, scales of residual branches) are drawn too, since
    a head of zeros scores all classes alike.

    Args:
        kwargs: for the constructor; a model that comes without a classifier needs num_classes.
        input_size: side in pixels; None: the model's own.

    Raises:
        RequestError: the model gives no class activation map.
    """
    settings = ModelSettings(name=name, kwargs=kwargs or {}, input_size=input_size)
    module = build_network(settings)
    _fill_zeros(module)
    classifier = load_classifier(settings, module=module)
    size, head = classifier.preprocessing, classifier.head
    images = np.random.default_rng(0).integers(
        0, 256, (BATCH, size.height, size.width, 3), dtype=np.uint8
    )
    maker = MapMaker(CamSettings(), classifier)
    scores = classifier.scores(images)
    class_ids = scores.logits.topk(min(CLASSES, classifier.class_count), dim=1).indices
    maps = maker.maps(scores, class_ids)
    inputs = torch.randn(BATCH, size.channels, size.height, size.width)
    with torch.inference_mode():
        forward = timeit.repeat(lambda: module(inputs), number=1, repeat=1 + REPEATS)
    mapping = timeit.repeat(lambda: maker.maps(scores, class_ids), number=1, repeat=1 + REPEATS)
    return ModelFacts(
        name=name,
        kind=head.kind,
        layout=str(head.grid.layout),
        input_height=size.height,
        input_width=size.width,
        map_height=maps.shape[2],
        map_width=maps.shape[3],
        cut=head.module_name if isinstance(head, TailHead) else None,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        completeness_error=completeness_error(classifier, images, scores, maps, class_ids),
        # The first of each allocates.
        map_cost=statistics.median(mapping[1:]) / statistics.median(forward[1:]),
    )


def completeness_error(
    classifier: Classifier,
    images: np.ndarray,
    scores: Scores,
    maps: torch.Tensor,
    class_ids: torch.Tensor,
) -> float | None:
    """How far the sum is off that all kinds of maps but the derivative promise.

    Args:
        images: (B, H, W, 3) uint8, what ``scores`` were computed of.
        maps: (B, n, h, w) of the classes ``class_ids`` (B, n).

    Returns:
        See ``heads.sum_error``; None for a derivative.
    """
    head = classifier.head
    if head.kind is HeadKind.derivative:
        return None
    if isinstance(head, AffineHead):
        constant = head.constant.expand_as(scores.logits)
    elif isinstance(head, PooledHead):
        constant = head.frozen_constant(scores.feature_map.mean(dim=(2, 3)))
    else:
        assert scores.tail is not None
        constant = tail_constant(
            classifier.module, head, classifier.normalised(images), scores.tail
        )
    return sum_error(maps.mean(dim=(2, 3)), constant, scores.logits, class_ids)


def _fill_zeros(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def matching_models(pattern: str, limit: int) -> list[str]:
    """The names of timm and torchvision (``torchvision/<name>``) that fit a shell pattern.

    Raises:
        RequestError: none fits, or more than ``limit``.
    """
    names = [*timm.list_models(), *torchvision_models()]
    fitting = fnmatch.filter(names, pattern)
    if not fitting:
        raise RequestError(
            f"PATTERN: none of {len(names)} models is called {pattern}; try '*{pattern}*'"
        )
    if len(fitting) > limit:
        raise RequestError(
            f"PATTERN: {len(fitting)} models are called {pattern}, and each is built and run; "
            f"narrow the pattern, or set --limit {len(fitting)}"
        )
    return fitting


def inspect_models(names: Sequence[str], console: Console) -> Iterator[ModelFacts | RefusedModel]:
    """Build and probe models with random weights, one after the other."""
    for name in track(names, "probing", console=console, transient=True):
        try:
            yield inspect_model(name)
        except RequestError as error:
            yield RefusedModel(name, str(error))


def print_models(inspected: Sequence[ModelFacts | RefusedModel], console: Console) -> None:
    """A line for each model."""
    table = Table("model", "kind", "layout", "input", "map", "parameters", "error", "cost")
    for entry in inspected:
        if isinstance(entry, RefusedModel):
            continue
        error = entry.completeness_error
        table.add_row(
            entry.name,
            str(entry.kind),
            entry.layout,
            f"{entry.input_height}x{entry.input_width}",
            f"{entry.map_height}x{entry.map_width}",
            f"{entry.parameters / 1e6:.1f} M",
            "" if error is None else f"{error:.0e}",
            f"{entry.map_cost:.1%}",
        )
    if table.row_count:
        console.print(table)
        say(
            console,
            "error: of mean of map + constant = logit, as a share of the logits' spread; "
            "cost: of five maps, as a share of a forward pass, here on the CPU",
        )
    for entry in inspected:
        if isinstance(entry, RefusedModel):
            say(console, f"no map: {entry.reason}")


def to_json(inspected: Sequence[ModelFacts | RefusedModel]) -> str:
    """One JSON list; a model without a map has a ``reason``."""
    return json.dumps([asdict(entry) for entry in inspected], indent=1)
