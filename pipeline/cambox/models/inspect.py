"""What a model is to this pipeline: the kind of its head, its map, what the map costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cambox.config import CamSettings, ModelSettings
from cambox.maps import MapMaker
from cambox.models.build import build_network
from cambox.models.classifier import Classifier, Scores, classifier_of
from cambox.models.heads import AffineHead, HeadKind, PooledHead
from cambox.models.probe import frozen_constant
from cambox.models.tail import tail_constant

CLASSES = 5


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


def inspect_model(
    name: str,
    kwargs: dict[str, Any] | None = None,
    input_size: int | None = None,
    batch: int = 2,
) -> ModelFacts:
    """Build a model with random weights, probe it and measure its maps on the CPU.

    Parameters that start as zeros (last layers, scales of residual branches) are drawn too, since
    a head of zeros scores all classes alike.

    Args:
        kwargs: for the constructor; a model that comes without a classifier needs num_classes.
        input_size: side in pixels; None: the model's own.
        batch: images of the measured passes.

    Raises:
        RequestError: the model gives no class activation map.
    """
    settings = ModelSettings(name=name, kwargs=kwargs or {}, input_size=input_size)
    network = build_network(settings)
    _fill_zeros(network.module)
    classifier = classifier_of(network, settings, torch.device("cpu"), "float32")
    size = classifier.preprocessing
    images = np.random.default_rng(0).integers(
        0, 256, (batch, size.height, size.width, 3), dtype=np.uint8
    )
    maker = MapMaker(CamSettings(), classifier)
    scores = classifier.scores(images)
    class_ids = scores.logits.topk(min(CLASSES, classifier.class_count), dim=1).indices
    maps = maker.maps(scores, class_ids)
    inputs = torch.randn(batch, 3, size.height, size.width)
    with torch.inference_mode():
        forward = _seconds(lambda: network.module(inputs))
    mapping = _seconds(lambda: maker.maps(scores, class_ids))
    return ModelFacts(
        name=name,
        kind=classifier.head.kind,
        layout=str(classifier.head.grid.layout),
        input_height=size.height,
        input_width=size.width,
        map_height=maps.shape[2],
        map_width=maps.shape[3],
        cut=getattr(getattr(classifier.head, "cut", None), "module_name", None),
        parameters=sum(parameter.numel() for parameter in network.module.parameters()),
        completeness_error=completeness_error(classifier, images, scores, maps, class_ids),
        map_cost=mapping / forward,
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
        The largest |mean of map + constant - logit| as a share of the logits' spread; None for a
        derivative.
    """
    head = classifier.head
    if head.kind is HeadKind.derivative:
        return None
    if isinstance(head, AffineHead):
        constant = head.constant.expand_as(scores.logits)
    elif isinstance(head, PooledHead):
        constant = frozen_constant(head, scores.feature_map.mean(dim=(2, 3)))
    else:
        assert scores.tail is not None
        constant = tail_constant(
            classifier.module, head.cut, classifier.normalised(images), scores.tail
        )
    summed = maps.mean(dim=(2, 3)) + constant.gather(1, class_ids)
    error = (summed - scores.logits.gather(1, class_ids)).abs().max()
    return float(error / (scores.logits.max() - scores.logits.min()))


def _fill_zeros(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def _seconds(work: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one allocates
