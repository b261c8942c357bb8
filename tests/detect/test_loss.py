"""Boxes that count more or less, against the formulas of the losses written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import box_iou

from cambox.config import ModelSettings
from cambox.detect import DetectorKind
from cambox.detect.build import SSDLITE_SIDE, ssdlite_backbone
from cambox.detect.detector import Description, new_detector
from cambox.detect.loss import WEIGHTS, weigh_boxes

NETWORK = ModelSettings(name="test_resnet", kwargs={"num_classes": 10})
BOXES = torch.tensor([[4.0, 6.0, 40.0, 44.0], [60.0, 30.0, 120.0, 90.0]])


def detector_of(kind: DetectorKind) -> nn.Module:
    torch.manual_seed(0)
    if kind is DetectorKind.ssdlite:
        half = (0.5, 0.5, 0.5)
        described = Description(kind, (0, 1), ("a", "b"), SSDLITE_SIDE, half, half, None)
        return described.build(ssdlite_backbone(pretrained=False)).train()
    detector: Any = new_detector(kind, (0, 1), ("a", "b"), 128, NETWORK)[0].train()
    if kind is DetectorKind.fasterrcnn:
        # Fewer regions, for the time that they take.
        detector.roi_heads.fg_bg_sampler.batch_size_per_image = 32
    return detector


def target_of(*weights: float) -> dict[str, torch.Tensor]:
    return {"boxes": BOXES, "labels": torch.tensor([1, 2]), WEIGHTS: torch.tensor(weights)}


NO_BOX = {
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.int64),
    WEIGHTS: torch.zeros(0),
}


def gradients(detector: nn.Module, targets: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 96, 128, generator=generator) for _ in targets]
    torch.manual_seed(2)
    torch.stack(list(detector(images, targets).values())).sum().backward()
    return {name: one.grad for name, one in detector.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("kind", DetectorKind)
def test_with_weights_of_one_the_losses_are_those_of_torchvision(kind: DetectorKind) -> None:
    targets = [target_of(1, 1), NO_BOX]
    own, weighed = detector_of(kind), detector_of(kind)
    weigh_boxes(weighed)
    expected, found = gradients(own, targets), gradients(weighed, targets)
    assert len(found) > 20
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [DetectorKind.retinanet, DetectorKind.fcos])
def test_weights_change_what_is_learned(kind: DetectorKind) -> None:
    one, other = detector_of(kind), detector_of(kind)
    for detector in (one, other):
        weigh_boxes(detector)
    found = gradients(one, [target_of(3, 0.5), NO_BOX])
    expected = gradients(other, [target_of(1, 1), NO_BOX])
    heads = [name for name in found if "cls" in name or "classification_head" in name]
    assert heads
    assert any(not torch.allclose(found[name], expected[name], rtol=1e-3) for name in heads)


def test_a_place_of_fcos_counts_as_its_box() -> None:
    """One image of three places: of the first box, of the second, and of none."""
    head = FCOSHead(32, 1, 3, num_convs=1)
    owner = nn.Module()
    owner.head = head
    weigh_boxes(owner)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 3, generator=generator, requires_grad=True)
    sides = torch.rand(1, 3, 4, generator=generator, requires_grad=True)
    centre = torch.randn(1, 3, 1, generator=generator, requires_grad=True)
    anchors = torch.tensor([[16.0, 16, 32, 32], [80, 50, 96, 66], [0, 100, 16, 116]])
    # Not leaves, as what a head gives is none.
    outputs = {"cls_logits": logits * 1, "bbox_regression": sides * 1, "bbox_ctrness": centre * 1}
    weights = torch.tensor([0.25, 2.0])
    losses = head.compute_loss(
        [target_of(*weights.tolist())], outputs, [anchors], [torch.tensor([0, 1, -1])]
    )
    found = torch.autograd.grad(sum(losses.values()), (logits, sides, centre))

    plain = torch.zeros(())
    for place in range(3):
        matched = place if place < 2 else None
        weight = 1.0 if matched is None else weights[matched]
        for column in range(3):
            positive = matched is not None and column == matched + 1
            share = torch.sigmoid(logits[0, place, column])
            right = share if positive else 1 - share
            alpha = 0.25 if positive else 0.75
            plain = plain - weight * alpha * (1 - right) ** 2 * torch.log(right)
        if matched is None:
            continue
        x = (anchors[place, 0] + anchors[place, 2]) / 2
        y = (anchors[place, 1] + anchors[place, 3]) / 2
        left, top, right, bottom = sides[0, place] * 16
        true = BOXES[matched]
        width = torch.minimum(x + right, true[2]) - torch.maximum(x - left, true[0])
        height = torch.minimum(y + bottom, true[3]) - torch.maximum(y - top, true[1])
        common = width * height
        union = (left + right) * (top + bottom) + (true[2:] - true[:2]).prod() - common
        hull = (torch.maximum(x + right, true[2]) - torch.minimum(x - left, true[0])) * (
            torch.maximum(y + bottom, true[3]) - torch.minimum(y - top, true[1])
        )
        plain = plain + weight * (1 - common / union + (hull - union) / hull)
        distances = [(x - true[0], true[2] - x), (y - true[1], true[3] - y)]
        centred = torch.stack([min(pair) / max(pair) for pair in distances]).prod().sqrt()
        share = torch.sigmoid(centre[0, place, 0])
        plain = plain - weight * (centred * share.log() + (1 - centred) * (1 - share).log())
    # Divided by the two places that have a box.
    expected = torch.autograd.grad(plain / 2, (logits, sides, centre))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_region_of_faster_rcnn_counts_as_its_box() -> None:
    """The gradient of the classes' biases is the weighted mean of (share - truth) over regions."""
    detector = detector_of(DetectorKind.fasterrcnn)
    heads: Any = detector.roi_heads
    seen: dict[str, Any] = {}
    heads.box_predictor.register_forward_hook(
        lambda _, __, outputs: seen.update(logits=outputs[0].detach())
    )
    weigh_boxes(detector)
    select = heads.select_training_samples

    def recorded(proposals: Any, targets: Any) -> Any:
        regions, *rest = select(proposals, targets)
        seen.update(regions=regions[0], labels=rest[1][0])
        return regions, *rest

    heads.select_training_samples = recorded
    weights = torch.tensor([0.25, 2.0])
    found = gradients(detector, [target_of(*weights.tolist())])
    overlap, nearest = box_iou(seen["regions"], BOXES).max(dim=1)
    assert ((overlap >= 0.5) == (seen["labels"] > 0)).all()
    assert {0, 1, 2} == set(seen["labels"].tolist())
    weight = torch.where(seen["labels"] > 0, weights[nearest], torch.ones(()))
    truth = torch.eye(3)[seen["labels"]]
    off = torch.softmax(seen["logits"], dim=1) - truth
    expected = (weight[:, None] * off).mean(dim=0)
    mine = found["roi_heads.box_predictor.cls_score.bias"]
    np.testing.assert_allclose(mine.numpy(), expected.numpy(), rtol=1e-4, atol=1e-6)


def test_an_anchor_of_the_proposals_counts_as_its_box() -> None:
    """The gradient of the objectness's biases, over all the anchors that are drawn."""
    detector = detector_of(DetectorKind.fasterrcnn)
    network: Any = detector.rpn
    weigh_boxes(detector)
    drawn: dict[str, Any] = {}
    sampler, head = network.fg_bg_sampler, network.head
    network.fg_bg_sampler = lambda labels: drawn.setdefault("which", sampler(labels))
    head.register_forward_hook(lambda _, __, outputs: drawn.update(objectness=outputs[0]))
    make = network.anchor_generator.forward
    network.anchor_generator.forward = lambda *given: drawn.setdefault("anchors", make(*given))
    weights = torch.tensor([0.25, 2.0])
    found = gradients(detector, [target_of(*weights.tolist())])
    positive, negative = (torch.where(each[0])[0] for each in drawn["which"])
    overlap = box_iou(drawn["anchors"][0], BOXES)
    objectness = torch.cat(
        # (1, anchors a cell, h, w) to cell by cell.
        [one[0].permute(1, 2, 0).flatten() for one in drawn["objectness"]]
    ).detach()
    share = torch.sigmoid(objectness)
    assert len(positive) >= 2
    weight = weights[overlap[positive].argmax(dim=1)]
    count = len(positive) + len(negative)
    expected = ((weight * (share[positive] - 1)).sum() + share[negative].sum()) / count
    mine = found["rpn.head.cls_logits.bias"].sum()
    assert float(mine) == pytest.approx(float(expected), rel=1e-4)
