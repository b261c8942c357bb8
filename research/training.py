"""Train small classifiers on generated scenes, from image labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch.nn import functional as F

from cambox.config_file import load_config
from cambox.demo.painting import paint_texture
from cambox.demo.scenes import CLASS_NAMES, make_scene

# The demo's own pictures have small seeds, so no picture is both shown and trained on.
FIRST_TRAINING_SEED = 1_000_000
FIRST_HELD_OUT_SEED = 9_000_000
BATCH_SIZE = 32

# The demo's classifier; others are trained on the same pictures.
DEMO = load_config("demo").model
assert isinstance(DEMO.input_size, int)
assert DEMO.mean is not None
assert DEMO.std is not None
SIDE, MEAN, STD = DEMO.input_size, DEMO.mean, DEMO.std

_WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class LabelledScenes:
    """Pictures, (N, S, S, 3) uint8 RGB, and which classes each shows, (N, K) float32 of 0 and 1."""

    images: NDArray[np.uint8]
    labels: NDArray[np.float32]


def load_scenes(first_seed: int, count: int, progress: Progress, title: str) -> LabelledScenes:
    """Make ``count`` scenes, resized to the classifier's input, with their image labels."""
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.zeros((count, len(CLASS_NAMES)), dtype=np.float32)
    for index in progress.track(range(count), description=title):
        image, objects = make_scene(first_seed + index)
        images[index] = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        labels[index, objects.class_id] = 1.0
    return LabelledScenes(images, labels)


def load_close_ups(first_seed: int, count: int, side: int, progress: Progress) -> LabelledScenes:
    """Pictures of ``side`` pixels that one texture fills, as fine as it is in scenes.

    Scenes of 240 pixels are squashed to twice the side, so a close-up is painted at 120 pixels
    for 64.
    """
    images = np.empty((count, side, side, 3), dtype=np.uint8)
    labels = np.zeros((count, len(CLASS_NAMES)), dtype=np.float32)
    painted = side * 120 // 64
    everywhere = np.full((painted, painted), 255, dtype=np.uint8)
    for index in progress.track(range(count), description="Close-ups"):
        generator = np.random.default_rng(first_seed + index)
        canvas = np.zeros((painted, painted, 3), dtype=np.float32)
        class_index = int(generator.integers(len(CLASS_NAMES)))
        paint_texture(generator, canvas, everywhere, CLASS_NAMES[class_index])
        grain = generator.standard_normal(canvas.shape, dtype=np.float32)
        canvas += np.float32(generator.uniform(1.0, 6.0)) * grain
        picture = np.clip(canvas, 0.0, 255.0).astype(np.uint8)
        images[index] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        labels[index, class_index] = 1.0
    return LabelledScenes(images, labels)


def as_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """(B, S, S, 3) uint8 pictures as the network's input, (B, 3, S, S) float32, -1 to 1."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def augment(images: NDArray[np.uint8], generator: np.random.Generator) -> torch.Tensor:
    """Flip, transpose, and change the colours of each picture by chance; see ``as_input``.

    None of it changes a texture's class: textures are drawn at any angle and in any colour.
    """
    changed = np.empty_like(images)
    for index, image in enumerate(images):
        flip_rows, flip_columns, transpose = generator.integers(2, size=3)
        view = image[:: 1 - 2 * flip_rows, :: 1 - 2 * flip_columns, generator.permutation(3)]
        changed[index] = view.swapaxes(0, 1) if transpose else view
    inputs = as_input(changed)
    shape = (len(images), 3, 1, 1)
    contrast = torch.from_numpy(generator.uniform(0.7, 1.2, shape).astype(np.float32))
    brightness = torch.from_numpy(generator.uniform(-0.2, 0.2, shape).astype(np.float32))
    return (inputs * contrast + brightness).clamp_(-1.0, 1.0)


def logits_of(model: torch.nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, K) of pictures (N, S, S, 3); the model is left in eval mode."""
    model.eval()
    batches = np.array_split(images, max(1, len(images) // 100))
    with torch.inference_mode():
        return np.asarray(torch.cat([model(as_input(batch)) for batch in batches]).numpy())


def mean_average_precision(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    """Mean over the classes of the average precision of scores (N, K) for labels of 0 and 1."""
    right = labels[np.argsort(-logits, axis=0), np.arange(labels.shape[1])]
    precision = np.cumsum(right, axis=0) / np.arange(1, len(right) + 1)[:, None]
    average_precision = (precision * right).sum(axis=0) / np.maximum(right.sum(axis=0), 1.0)
    return float(average_precision.mean())


def train(
    model: torch.nn.Module,
    scenes: LabelledScenes,
    epochs: int,
    peak_learning_rate: float,
    seed: int,
    progress: Progress,
    gradient_limit: float | None = None,
) -> torch.nn.Module:
    """Train a network on labelled scenes with binary cross-entropy, in a seeded order.

    Args:
        gradient_limit: the norm that gradients are scaled down to; None: they are left alone.
    """
    generator = np.random.default_rng(seed)
    model = model.to(memory_format=torch.channels_last).train()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
    steps = len(scenes.images) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak_learning_rate, total_steps=epochs * steps, pct_start=0.2
    )
    task = progress.add_task("Training", total=epochs * steps)
    for epoch in range(epochs):
        order = generator.permutation(len(scenes.images))[: steps * BATCH_SIZE]
        losses = []
        for batch in order.reshape(steps, BATCH_SIZE):
            inputs = augment(scenes.images[batch], generator)
            logits = model(inputs.contiguous(memory_format=torch.channels_last))
            loss = F.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(scenes.labels[batch])
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if gradient_limit is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_limit)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            progress.advance(task)
        progress.console.print(f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}")
    return model
