"""FiftyOne's ``FiftyOneImageDetectionDataset``: ``labels.json`` beside ``data/`` or ``data.json``.

``bounding_box`` is x, y, width, height as shares of the image's sides, from its upper left corner;
``confidence`` is the score. Where images are not extracted, ``data.json`` says where they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cambox.export.writer import Exported, JsonEntries, Writer, write_new
from cambox.training.selection import ClassList


class FiftyOneWriter(Writer):
    """Writes entry by entry."""

    def __init__(self, folder: Path, classes: ClassList, with_images: bool) -> None:
        self.images = folder / "data"
        self.places: JsonEntries | None = None
        if with_images:
            self.images.mkdir()
        else:
            self.places = JsonEntries(folder / "data.json", "{", "}")
        names = json.dumps(classes.names)
        self.labels = JsonEntries(
            folder / "labels.json", f'{{"classes": {names},\n"labels": {{', "}}"
        )

    def add(self, exported: Exported) -> None:
        """Write one image."""
        if exported.data is not None:
            write_new(self.images / exported.file_name, exported.data)
        if self.places is not None:
            self.places.add(exported.called, exported.name)
        image = exported.image
        corners = image.boxes.corners / ([image.width, image.height] * 2)
        places = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        columns = zip(
            image.boxes.class_id.tolist(),
            places.round(8).tolist(),
            exported.rounded_scores,
            image.boxes.rank.tolist(),
            image.boxes.component.tolist(),
            strict=True,
        )
        found = [
            {
                "label": class_id,
                "bounding_box": place,
                "confidence": score,
                "attributes": {"rank": rank, "component": component},
            }
            for class_id, place, score, rank, component in columns
        ]
        self.labels.add(found, exported.name)

    def close(self) -> None:
        """All is added."""
        self.labels.close()
        if self.places is not None:
            self.places.close()
