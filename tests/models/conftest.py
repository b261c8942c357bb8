"""Fixtures of the tests of networks."""

from __future__ import annotations

from typing import Any

import pytest
from torchvision.models import vision_transformer

SMALL = {"num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}


@pytest.fixture
def small_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of torchvision, the smallest of which has 86 million weights, whatever it is given."""
    whole = vision_transformer._vision_transformer

    def small(**arguments: Any) -> vision_transformer.VisionTransformer:
        return whole(**(arguments | SMALL))

    monkeypatch.setattr(vision_transformer, "_vision_transformer", small)
