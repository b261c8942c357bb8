"""What a writer of a format is given, and what it has to offer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cambox.training.labelled import LabelledImage
from cambox.training.selection import ClassList

# Half a thousandth of a pixel at most is lost, and a line stays short.
_DECIMALS = 3


@dataclass(frozen=True)
class Exported:
    """An image and what it is called in the export.

    Attributes:
        name: safe as a file's name, and of this image alone; without a suffix.
        suffix: of the image's file, without a dot.
        data: the image's file, upright as it is stored; None: images are left in their shards.
        turned: whether it had to be encoded anew for that.
    """

    image: LabelledImage
    name: str
    suffix: str
    data: bytes | None = None
    turned: bool = False

    @property
    def file_name(self) -> str:
        """The name of the image's file."""
        return f"{self.name}.{self.suffix}"

    def corners(self) -> list[list[float]]:
        """(n, 4) x_min, y_min, x_max, y_max in pixels, half-open, to a thousandth."""
        rounded: list[list[float]] = np.round(
            self.image.corners.astype(np.float64), _DECIMALS
        ).tolist()
        return rounded


class Writer(Protocol):
    """Writes one format into a folder that is published when all is written."""

    def __init__(self, folder: Path, classes: ClassList, with_images: bool) -> None: ...

    def start_shard(self, number: int, count: int) -> None:
        """What follows is of the shard with this number, from 0."""

    def add(self, exported: Exported) -> None:
        """Write one image."""

    def close(self) -> None:
        """All is added; write what is still missing."""


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet.

    Raises:
        FileExistsError: it is there.
    """
    with path.open("xb") as file:
        file.write(data)
