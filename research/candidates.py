"""Small networks of several makes, and how each is trained: alike, on the demo's textures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from rich.progress import Progress
from torch import nn

from cambox.demo.scenes import CLASS_NAMES
from research.training import (
    DEMO,
    FIRST_TRAINING_SEED,
    SIDE,
    LabelledScenes,
    load_close_ups,
    load_scenes,
    train,
)

CLOSE_UP_SIDE = SIDE // 2
# A transformer's gradients are rough while it learns what to attend to.
_GRADIENT_LIMIT = 1.0


@dataclass(frozen=True)
class Candidate:
    """A network to train: maps of 16 x 16 cells at 128 pixels.

    Attributes:
        peak_learning_rate: on close-ups; on scenes it is a third of it.
        middle: modules whose outputs the refinement compares cells by.
    """

    name: str
    model: str
    kwargs: dict[str, Any]
    peak_learning_rate: float
    middle: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Of the trained weights."""
        return self.name.replace(", ", "-").replace(" ", "-").lower() + ".safetensors"


Lesson = tuple[LabelledScenes, int, float]
"""Pictures, how often they are gone through, and the share of a candidate's peak rate."""

_TOKENS = {"img_size": SIDE, "patch_size": 8, "depth": 4, "embed_dim": 96, "num_heads": 4}
_MEAN_POOLED: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
_SWIN = {
    "img_size": SIDE,
    "window_size": 16,
    "depths": (2, 2),
    "num_heads": (3, 6),
    "embed_dim": 48,
    "drop_path_rate": 0.0,
}
# The scale of residual branches starts at 1e-6 for deep networks, and four blocks never leave it.
_CONVNEXT = {
    "depths": (1, 1, 1, 1),
    "dims": (32, 48, 64, 96),
    "output_stride": 8,
    "ls_init_value": 1.0,
}
_RESNET = {key: value for key, value in DEMO.kwargs.items() if key != "num_classes"}
_VIT_MIDDLE = ("blocks.1", "blocks.2")
CANDIDATES = (
    Candidate("ResNet", "resnet18", _RESNET, 4e-3, ("layer2", "layer3")),
    Candidate("ConvNeXt", "convnext_atto", _CONVNEXT, 4e-3, ("stages.1", "stages.2")),
    Candidate(
        "Swin", "swin_tiny_patch4_window7_224", _SWIN, 3e-3, ("layers.0", "layers.1.blocks.0")
    ),
    Candidate("ViT, class token", "vit_tiny_patch16_224", _TOKENS, 2e-3, _VIT_MIDDLE),
    Candidate(
        "ViT, mean pooled", "vit_tiny_patch16_224", {**_TOKENS, **_MEAN_POOLED}, 2e-3, _VIT_MIDDLE
    ),
)


def make_lessons(
    close_ups: int, close_up_epochs: int, scenes: int, scene_epochs: int, progress: Progress
) -> tuple[Lesson, ...]:
    """Paint the pictures once for all networks: close-ups, then scenes.

    Close-ups, of 64 pixels and filled by one texture, are cheap, and enough to learn what the
    classes are. From scenes alone, of 128 pixels with several textured objects among distractors,
    transformers of this size stay at chance for longer than a CPU has time.
    """
    first = load_close_ups(FIRST_TRAINING_SEED, close_ups, CLOSE_UP_SIDE, progress)
    then = load_scenes(FIRST_TRAINING_SEED, scenes, progress, "Training scenes")
    return (first, close_up_epochs, 1), (then, scene_epochs, 1 / 3)


def untrained(candidate: Candidate, seed: int, side: int = SIDE) -> nn.Module:
    """The network with weights by chance.

    Weights of a spread of 0.02, timm's for transformers and ConvNeXt, are too small for layers of
    some fifty channels: Xavier's for all networks.
    """
    torch.manual_seed(seed)
    kwargs = {**candidate.kwargs, "num_classes": len(CLASS_NAMES)}
    if "img_size" in kwargs:
        kwargs["img_size"] = side
    if "window_size" in kwargs:
        # In step with the picture, as ``set_input_size`` has it.
        kwargs["window_size"] = kwargs["window_size"] * side // SIDE
    module: nn.Module = timm.create_model(candidate.model, **kwargs)
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)
    return module


def teach(
    candidate: Candidate, lessons: Sequence[Lesson], seed: int, progress: Progress
) -> nn.Module:
    """Train a network on one lesson after the other."""
    module = untrained(candidate, seed, CLOSE_UP_SIDE)
    for pictures, epochs, share in lessons:
        side = pictures.images.shape[1]
        if "img_size" in candidate.kwargs and side != CLOSE_UP_SIDE:
            module.set_input_size((side, side))  # type: ignore[operator]
        rate = share * candidate.peak_learning_rate
        module = train(module, pictures, epochs, rate, seed, progress, _GRADIENT_LIMIT)
    return module


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    safetensors.torch.save_file(state, path)


def load_weights(candidate: Candidate, path: Path) -> nn.Module:
    """The trained network.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    module = untrained(candidate, seed=0)
    module.load_state_dict(safetensors.torch.load_file(path))
    return module
