"""The demo's classifier: what the training job builds and what the demo's recipe names.

A ResNet with one narrow block a stage, and maps of 16x16 cells (a stride of 8).
"""

from __future__ import annotations

from typing import Any

from cambox.demo.scenes import CLASS_NAMES

MODEL_NAME = "resnet18"
"""Name of the timm model."""

MODEL_KWARGS: dict[str, Any] = {
    "num_classes": len(CLASS_NAMES),
    "layers": [1, 1, 1, 1],
    "channels": [32, 48, 64, 96],
    "output_stride": 8,
}
"""Arguments of the timm model's constructor."""

INPUT_SIZE = 128
"""Height and width in pixels; the whole picture is resized to this square."""

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
"""Pixels of 0 to 1 minus ``MEAN``, divided by ``STD``: the input lies in -1 to 1."""

CHECKPOINT = "classifier.safetensors"
"""File name of the weights, beside this module."""

THRESHOLD, PERCENTILE = 0.5, 100.0
"""Of the boxes. An object of these pictures may cover less than a tenth of them, so the 90th
percentile, the default, can lie outside of it."""
