"""A detector before its first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cambox.config import ModelSettings
from cambox.detect import DetectorKind
from cambox.detect.detector import new_detector

NETWORK = ModelSettings(name="test_resnet", kwargs={"num_classes": 10})


@pytest.mark.parametrize("seed", range(3))
def test_all_four_sides_of_fcos_begin_alive(seed: int) -> None:
    """Of torchvision's own beginning half of the places have a side of 0, and no gradient there."""
    torch.manual_seed(seed)
    detector: Any = new_detector(DetectorKind.fcos, (0, 1), ("a", "b"), 128, NETWORK)[0]
    maps = list(detector.backbone(torch.rand(2, 3, 128, 96)).values())
    sides, _ = detector.head.regression_head(maps)
    alive = (sides > 0).float().mean((0, 1))
    assert alive.shape == (4,)
    assert (alive > 0.95).all()
    sides.mean((0, 1)).sum().backward()
    assert torch.allclose(detector.head.regression_head.bbox_reg.bias.grad, alive)
