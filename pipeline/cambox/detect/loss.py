"""Boxes that count more or less: torchvision's own losses, with a weight for each true box.

All losses of its detectors are sums over places (anchors, cells or regions), each a function of
what the head says at that place alone. So a place's loss is weighted by weighting the gradient that
comes back to the head's outputs there, and torchvision's code stays as it is. A place counts as the
box that it is matched to; background counts 1. What the losses say of themselves is not weighted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.ssd import SSD

WEIGHTS = "weights"
"""The key of a target's weights, (n,) float32, one for each of its boxes."""

Targets = Sequence[Mapping[str, Any]]


def weigh_boxes(detector: nn.Module) -> None:
    """Have each box's share of the loss multiplied by its target's ``WEIGHTS`` from now on.

    Args:
        detector: an FCOS, RetinaNet, SSD or Faster R-CNN of torchvision; changed in place.
    """
    if isinstance(detector, FasterRCNN):
        _weigh_proposals(detector.rpn)
        _weigh_regions(detector.roi_heads)
    else:
        _weigh_anchors(detector if isinstance(detector, SSD) else detector.head)


def _weigh_anchors(owner: Any) -> None:
    """Of a head that matches its anchors to boxes itself."""
    own = owner.compute_loss

    def compute_loss(
        targets: Targets,
        head_outputs: Mapping[str, torch.Tensor],
        anchors: list[torch.Tensor],
        matched: list[torch.Tensor],
    ) -> Any:
        pairs = zip(targets, matched, strict=True)
        weights = torch.stack([_of_matched(target, places) for target, places in pairs])
        for output in head_outputs.values():
            _weigh_gradient(output, weights)
        return own(targets, head_outputs, anchors, matched)

    owner.compute_loss = compute_loss


def _weigh_proposals(network: Any) -> None:
    """Of Faster R-CNN's proposals, which say where an object is, of whatever class."""
    own_assign, own_loss = network.assign_targets_to_anchors, network.compute_loss
    weights: list[torch.Tensor] = []

    def assign(anchors: list[torch.Tensor], targets: Targets) -> Any:
        # It is matched once more, because torchvision keeps to itself which box is which anchor's.
        weights[:] = [
            _of_matched(target, network.proposal_matcher(network.box_similarity(boxes, own)))
            if len(boxes := target["boxes"])
            else own.new_ones(len(own))
            for own, target in zip(anchors, targets, strict=True)
        ]
        return own_assign(anchors, targets)

    def compute_loss(objectness: torch.Tensor, deltas: torch.Tensor, *rest: Any) -> Any:
        for output in (objectness, deltas):
            _weigh_gradient(output, torch.cat(weights))
        return own_loss(objectness, deltas, *rest)

    network.assign_targets_to_anchors, network.compute_loss = assign, compute_loss


def _weigh_regions(heads: Any) -> None:
    """Of Faster R-CNN's regions, of which it draws some of each image."""
    own = heads.select_training_samples
    weights: list[torch.Tensor] = []

    def select(proposals: list[torch.Tensor], targets: Targets) -> Any:
        proposals, matched, labels, offsets = own(proposals, targets)
        # Of regions that are background some box is named, too.
        weights[:] = [
            _of_matched(target, torch.where(label > 0, places, -1))
            for target, places, label in zip(targets, matched, labels, strict=True)
        ]
        return proposals, matched, labels, offsets

    def weigh(_: nn.Module, __: Any, outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        if heads.training:
            for output in outputs:
                _weigh_gradient(output, torch.cat(weights))

    heads.select_training_samples = select
    heads.box_predictor.register_forward_hook(weigh)


def _of_matched(target: Mapping[str, Any], places: torch.Tensor) -> torch.Tensor:
    """(m,) the weight of the box at each place among the target's; 1 for places below 0."""
    weights = target[WEIGHTS]
    padded = torch.cat([weights, weights.new_ones(1)])
    return padded[torch.where(places < 0, len(weights), places)]


def _weigh_gradient(output: torch.Tensor, weights: torch.Tensor) -> None:
    """Multiply the gradient of an output (..., c) by weights (...)."""
    if output.requires_grad:
        by_place = weights[..., None]
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient * by_place.to(gradient)
        )
