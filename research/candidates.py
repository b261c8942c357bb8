"""Small networks of several makes, and how each is trained: alike, on the demo's textures."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Lessons:
    """What all networks learn from, in this order.

    Attributes:
        close_ups: of 64 pixels, each filled by one texture: cheap, and enough to learn what the
            classes are. From scenes alone transformers of this size stay at chance for longer
            than a CPU has time.
        scenes: of 128 pixels, several textured objects among distractors.
    """

    close_ups: LabelledScenes
    close_up_epochs: int
    scenes: LabelledScenes
    scene_epochs: int


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
) -> Lessons:
    """Paint the pictures once for all networks."""
    return Lessons(
        load_close_ups(FIRST_TRAINING_SEED, close_ups, CLOSE_UP_SIDE, progress),
        close_up_epochs,
        load_scenes(FIRST_TRAINING_SEED, scenes, progress, "Training scenes"),
        scene_epochs,
    )


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


def teach(candidate: Candidate, lessons: Lessons, seed: int, progress: Progress) -> nn.Module:
    """Train a network: close-ups, then scenes."""
    module = untrained(candidate, seed, CLOSE_UP_SIDE)
    rate = candidate.peak_learning_rate
    module = train(
        module, lessons.close_ups, lessons.close_up_epochs, rate, seed, progress, _GRADIENT_LIMIT
    )
    if "img_size" in candidate.kwargs:
        module.set_input_size((SIDE, SIDE))  # type: ignore[operator]
    return train(
        module, lessons.scenes, lessons.scene_epochs, rate / 3, seed, progress, _GRADIENT_LIMIT
    )


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
