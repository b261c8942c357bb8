"""YOLO's text files, as Ultralytics describes them: ``labels/train/*.txt`` and ``data.yaml``.

A line is: class from 0, then the box's centre x, centre y, width and height as shares of the
image's width and height. An image without a box has an empty file. There is no place for scores.
``images/train/`` lies beside the labels, where images are extracted; all names are flat, because
readers find a label by replacing the last ``images`` in the path, which a key might contain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from cambox.export.writer import Exported, Origins, Writer, write_new
from cambox.training.selection import ClassList

# Relative precision 5e-8; a fixed number of decimals would lose small boxes.
_FORMAT = ".7g"


class YoloWriter(Writer):
    """Writes one label file an image."""

    def __init__(self, folder: Path, classes: ClassList, with_images: bool) -> None:
        self.labels = folder / "labels" / "train"
        self.images = folder / "images" / "train"
        self.labels.mkdir(parents=True)
        if with_images:
            self.images.mkdir(parents=True)
        self.origins = Origins(folder)
        names = dict(enumerate(classes.names))
        # Ultralytics asks for a val; boxes that were guessed judge nothing, so there is none to
        # offer but the training images.
        data = {"train": "images/train", "val": "images/train", "names": names}
        text = "# val: put images with true boxes here\n" + yaml.safe_dump(
            data, sort_keys=False, allow_unicode=True
        )
        write_new(folder / "data.yaml", text.encode())

    def add(self, exported: Exported) -> None:
        """Write one image."""
        image = exported.image
        self.origins.add(exported)
        if exported.data is not None:
            write_new(self.images / exported.file_name, exported.data)
        low, high = np.split(image.boxes.corners / ([image.width, image.height] * 2), 2, axis=1)
        centres_and_sizes = np.concatenate([(low + high) / 2, high - low], axis=1).tolist()
        lines = [
            f"{number} {' '.join(format(share, _FORMAT) for share in box)}\n"
            for number, box in zip(image.boxes.class_id.tolist(), centres_and_sizes, strict=True)
        ]
        write_new(self.labels / f"{exported.name}.txt", "".join(lines).encode())

    def close(self) -> None:
        """All is added."""
        self.origins.close()
