"""Photographs with their true boxes, of one class or of several, as a folder has them."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cambox.boxes import Boxes
from cambox.models.groups import ClassGroups, read_groups
from cambox.resolve import IMAGENET_CLASS_COUNT
from cambox.review.truth import read_truth
from cambox.sources.decode import decode_image

MAX_PIXELS = 10**8


@dataclass(frozen=True)
class Photographs:
    """Of each photograph its file, its class, and its true boxes (n, 4) as shares of the image."""

    files: Sequence[Path]
    classes: Sequence[int]
    corners: Sequence[NDArray[np.float64]]

    @classmethod
    def read(cls, folder: Path) -> Photographs:
        """From a folder with ``images/``, ``images.csv`` and ``boxes.csv`` (in pixels)."""
        boxes: dict[str, list[list[float]]] = defaultdict(list)
        with (folder / "boxes.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                sides = [float(row[side]) for side in ("x_min", "y_min", "x_max", "y_max")]
                boxes[row["image"]].append(sides)
        with (folder / "images.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        files = [folder / "images" / row["image"] for row in rows]
        sizes = [decoded(file).shape for file in files]
        corners = [
            np.array(boxes[file.name]) / [width, height, width, height]
            for file, (height, width, _) in zip(files, sizes, strict=True)
        ]
        return cls(files, [int(row["class_index"]) for row in rows], corners)


@dataclass(frozen=True)
class Scenes:
    """Photographs with several classes and boxes each.

    Attributes:
        groups: of each class, in their order, the network's classes that are it.
        true: of each image its boxes, corners as shares of the image.
    """

    groups: ClassGroups
    files: Sequence[Path]
    true: Sequence[Boxes]

    @classmethod
    def read(cls, folder: Path) -> Scenes:
        """From a folder with ``images/`` and ``boxes.csv`` (in pixels), see ``read_truth``.

        ``class_names.txt`` there has a name a line, ``class_groups.yaml`` says of each name which
        class indices of the network it is.
        """
        names = (folder / "class_names.txt").read_text().splitlines()
        model_names = [str(index) for index in range(IMAGENET_CLASS_COUNT)]
        groups = read_groups(str(folder / "class_groups.yaml"), model_names)
        images = sorted(read_truth(str(folder / "boxes.csv"), names).images.items())
        files = [folder / "images" / name for name, _ in images]
        true = []
        for file, (_, boxes) in zip(files, images, strict=True):
            height, width, _ = decoded(file).shape
            true.append(boxes.scaled(1 / width, 1 / height))
        return cls(groups, files, true)


def decoded(file: Path) -> NDArray[np.uint8]:
    """The upright image (height, width, 3) of a file."""
    return decode_image(file.read_bytes(), MAX_PIXELS)
