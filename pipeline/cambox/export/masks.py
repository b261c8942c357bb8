"""Pseudo masks of an export's boxes, from the maps that were stored with them."""

from __future__ import annotations

import cv2
import numpy as np
import pycocotools.mask

from cambox.cams.masks import masks_of_boxes
from cambox.config_cam import BoxSettings
from cambox.errors import RequestError
from cambox.export.writer import Rle
from cambox.output.rows import StoredMap
from cambox.training.labelled import LabelledImage, TrainingSet


class Masks:
    """The masks of one file's images after the other; the maps of one file are in memory.

    Raises:
        RequestError: no maps are stored, or other boxes than theirs.
    """

    def __init__(self, training_set: TrainingSet) -> None:
        recipe = training_set.recipe
        try:
            if not recipe.settings["output"].get("store_maps"):
                raise RequestError(
                    f"--masks: {recipe.uri} holds no maps; annotate once more with --set "
                    "output.store_maps=true"
                )
            self.settings = BoxSettings.model_validate(recipe.settings["boxes"])
        except ValueError as error:
            raise recipe.other_make() from error
        self.training_set = training_set
        self.maps: dict[int, list[StoredMap]] = {}

    def start_file(self, index: int) -> None:
        """What follows are images of the file with this number."""
        self.maps = {}
        first_id = self.training_set.first_ids[index]
        rows = self.training_set.recipe.files[index].table(["maps"]).column("maps").to_pylist()
        for image_id, maps in enumerate(rows, first_id):
            self.maps[image_id] = [StoredMap(**one) for one in maps]

    def of(self, image: LabelledImage) -> tuple[Rle, ...]:
        """The mask of each box.

        Raises:
            RequestError: a box is of no map.
        """
        boxes = image.boxes
        class_ids = np.array(self.training_set.classes.ids)[boxes.class_id]
        shares = boxes.scaled(1 / image.width, 1 / image.height).corners
        masks: list[Rle | None] = [None] * len(boxes)
        for stored in self.maps[image.image_id]:
            (places,) = np.nonzero((class_ids == stored.class_id) & (boxes.rank == stored.rank))
            geometry = self.training_set.recipe.geometry
            size = geometry.upsampled_size(self.settings, (stored.height, stored.width))
            cells = masks_of_boxes(
                stored.restore(), shares[places], size, self.settings, geometry.offset
            )
            for place, mask in zip(places.tolist(), cells, strict=True):
                masks[place] = _encoded(mask, image.height, image.width)
        found = tuple(mask for mask in masks if mask is not None)
        if len(found) < len(boxes):
            raise RequestError(
                f"--masks: the row of {image.key} has a box of no stored map; annotate again"
            )
        return found


def _encoded(mask: np.ndarray, height: int, width: int) -> Rle:
    """A mask (h, w) bool at the size of its image."""
    pixels = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    rle = pycocotools.mask.encode(np.asfortranarray(pixels))
    return Rle(rle["counts"].decode(), (height, width), int(pycocotools.mask.area(rle)))
