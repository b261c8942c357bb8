"""YOLO's text files, as Ultralytics describes them: ``labels/*/*.txt`` and ``data.yaml``.

A line is: class from 0, then the box's centre x, centre y, width and height as shares of the
image's width and height. An image without a box has an empty file. There is no place for scores.
``images/`` lies beside the labels, where images are extracted; all names are flat, because
readers find a label by replacing the last ``images`` in the path, which a key might contain.

A hash of its key puts an image into ``train`` or ``val``, so it stays there as new images come.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from cambox.export.writer import Exported, Origins, Writer, write_new
from cambox.training.selection import ClassList, share_of

# Relative precision 5e-8; a fixed number of decimals would lose small boxes.
_FORMAT = ".7g"
_SPLITS = ("train", "val")


class YoloWriter(Writer):
    """Writes one label file an image."""

    def __init__(
        self, folder: Path, classes: ClassList, with_images: bool, val_share: float
    ) -> None:
        self.val_share = val_share
        self.count = dict.fromkeys(_SPLITS, 0)
        self.labels = {split: folder / "labels" / split for split in _SPLITS}
        self.images = {split: folder / "images" / split for split in _SPLITS}
        for path in (*self.labels.values(), *(self.images.values() if with_images else ())):
            path.mkdir(parents=True)
        self.origins = Origins(folder)
        names = dict(enumerate(classes.names))
        data = {**{split: f"images/{split}" for split in _SPLITS}, "names": names}
        text = "# the boxes of val are guessed, too: images with true boxes judge better\n"
        text += yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        write_new(folder / "data.yaml", text.encode())

    def add(self, exported: Exported) -> None:
        """Write one image."""
        image = exported.image
        self.origins.add(exported)
        split = "val" if share_of(image.key) < self.val_share else "train"
        self.count[split] += 1
        if exported.data is not None:
            write_new(self.images[split] / exported.file_name, exported.data)
        low, high = np.split(image.boxes.corners / ([image.width, image.height] * 2), 2, axis=1)
        centres_and_sizes = np.concatenate([(low + high) / 2, high - low], axis=1).tolist()
        lines = [
            f"{number} {' '.join(format(share, _FORMAT) for share in box)}\n"
            for number, box in zip(image.boxes.class_id.tolist(), centres_and_sizes, strict=True)
        ]
        write_new(self.labels[split] / f"{exported.name}.txt", "".join(lines).encode())

    def close(self) -> None:
        """All is added."""
        self.origins.close()

    def notes(self) -> tuple[str, ...]:
        """How many images each of the two lists has."""
        split = ", ".join(f"{split} {count:,}" for split, count in self.count.items())
        if self.count["val"]:
            return (f"by a hash of the key: {split}",)
        return (f"{split}: put images with true boxes into images/val, or raise --val",)
