"""Pictures with known boxes: textured objects among plain shapes on a noisy background.

The class of an object is its texture alone. Silhouettes, colours, sizes and places are drawn by
chance for objects and for texture-less distractors alike, so a classifier has to look at the
texture, and its evidence is spread over the whole object.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cambox.boxes import Boxes
from cambox.demo.painting import (
    TEXTURES,
    fill_silhouette,
    paint_background,
    paint_texture,
    random_silhouette,
)

CLASS_NAMES: tuple[str, ...] = tuple(TEXTURES)

_SIDES = (192, 289)
_AREA_FRACTIONS = {1: (0.10, 0.40), 2: (0.09, 0.28), 3: (0.08, 0.20)}
_COUNT_PROBABILITIES = (0.45, 0.35, 0.20)
_REPEAT_PROBABILITY = 0.1
_MAX_OVERLAP = 0.02
_MIN_VISIBLE_FRACTION = 0.07
_PLACEMENT_ATTEMPTS = 25
_JPEG_QUALITY = 90

Picture = NDArray[np.uint8]


def _place_silhouette(
    generator: np.random.Generator, fractions: tuple[float, float], taken: NDArray[np.bool_]
) -> Picture | None:
    """Coverage of an outline that leaves the taken pixels free, or None if none was found."""
    height, width = taken.shape
    fraction = generator.uniform(*fractions)
    for _ in range(_PLACEMENT_ATTEMPTS):
        outline = random_silhouette(generator, fraction * height * width)
        low, high = outline.min(axis=0), outline.max(axis=0)
        # Most objects lie inside the picture; some are cut by its border.
        slack = 0.2 * (high - low) if generator.random() < 0.25 else 0.0
        first, last = -low - slack, (width, height) - high + slack
        centre = first + generator.uniform(0.0, 1.0, 2) * (last - first)
        coverage = fill_silhouette(outline + centre, height, width)
        visible = coverage >= 128
        area = int(np.count_nonzero(visible))
        if area < _MIN_VISIBLE_FRACTION * height * width:
            continue
        if np.count_nonzero(visible & taken) <= _MAX_OVERLAP * area:
            return coverage
    return None


def compose_scene(seed: int) -> tuple[Picture, NDArray[np.uint8], tuple[int, ...]]:
    """Paint a picture and keep which object each of its pixels shows.

    Args:
        seed: any number from 0; the result depends on nothing else.

    Returns:
        The picture, (H, W, 3) uint8 RGB; the owner of each pixel, (H, W) uint8, 0 for the
        background and i + 1 for object i; and the objects' class indices.
    """
    generator = np.random.default_rng(seed)
    height, width = (int(side) for side in generator.integers(*_SIDES, size=2))
    canvas = paint_background(generator, height, width)
    owners = np.zeros((height, width), dtype=np.uint8)
    count = int(generator.choice(3, p=_COUNT_PROBABILITIES)) + 1
    classes: list[int] = []
    for _ in range(count):
        coverage = _place_silhouette(generator, _AREA_FRACTIONS[count], owners > 0)
        if coverage is None:
            continue
        class_index = int(generator.integers(len(CLASS_NAMES)))
        while class_index in classes and generator.random() >= _REPEAT_PROBABILITY:
            class_index = int(generator.integers(len(CLASS_NAMES)))
        classes.append(class_index)
        paint_texture(generator, canvas, coverage, CLASS_NAMES[class_index])
        owners[coverage >= 128] = len(classes)
    grain = generator.standard_normal(canvas.shape, dtype=np.float32)
    canvas += np.float32(generator.uniform(1.0, 6.0)) * grain
    return np.clip(canvas, 0.0, 255.0).astype(np.uint8), owners, tuple(classes)


def make_scene(seed: int) -> tuple[Picture, Boxes]:
    """One picture, of 192 to 288 pixels a side, and the boxes of its one to three objects.

    Args:
        seed: any number from 0; the scene depends on nothing else.

    Returns:
        (H, W, 3) uint8 RGB, and the extents of what is visible of the objects, with their classes.
    """
    image, owners, classes = compose_scene(seed)
    corners = []
    for owner in range(1, len(classes) + 1):
        x, y, width, height = cv2.boundingRect((owners == owner).astype(np.uint8))
        corners.append((x, y, x + width, y + height))
    return image, Boxes.of(corners, class_id=classes)


def write_scenes(folder: Path, seeds: Sequence[int]) -> None:
    """Write pictures with their labels and true boxes.

    Writes ``images/scene-000000.jpg`` and so on, ``labels.csv`` (image, class_index; one row for
    each distinct class of a picture), ``boxes.csv`` (image, class_index, x_min, y_min, x_max,
    y_max; one row for each object) and ``class_names.txt`` (one name a line).

    Args:
        folder: it is made where it is not there.
        seeds: of the pictures, see ``make_scene``.

    Raises:
        OSError: the folder cannot be written.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    labels = ["image,class_index"]
    boxes = ["image,class_index,x_min,y_min,x_max,y_max"]
    for index, seed in enumerate(seeds):
        image, objects = make_scene(seed)
        name = f"scene-{index:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], quality)
        (images / name).write_bytes(encoded.tobytes())
        labels += [f"{name},{class_id}" for class_id in np.unique(objects.class_id)]
        for class_id, corners in zip(objects.class_id, objects.corners.tolist(), strict=True):
            boxes.append(",".join(map(str, (name, class_id, *corners))))
    files = {"labels.csv": labels, "boxes.csv": boxes, "class_names.txt": CLASS_NAMES}
    for name, lines in files.items():
        text = "".join(f"{line}\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
