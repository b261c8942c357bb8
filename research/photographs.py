"""Photographs of one class each with their true boxes, as a folder with CSV files has them."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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


def decoded(file: Path) -> NDArray[np.uint8]:
    """The upright image (height, width, 3) of a file."""
    return decode_image(file.read_bytes(), MAX_PIXELS)
