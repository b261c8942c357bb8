"""Images that keep their shape: which networks take them so, and padding for the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from cambox.errors import RequestError
from cambox.models.classifier import Classifier
from cambox.models.heads import Layout, TailHead
from cambox.models.load import DOES_NOT_RUN


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the input of a network, in pixels; around it is padding.

    Attributes:
        top, left, height, width: of the image; whole cells of the feature map.
        input_size: (height, width) of the input.
    """

    top: int
    left: int
    height: int
    width: int
    input_size: tuple[int, int]

    @classmethod
    def whole(cls, height: int, width: int) -> Frame:
        """Of an image that fills the input."""
        return cls(0, 0, height, width, (height, width))

    @classmethod
    def in_the_middle(
        cls, height: int, width: int, input_size: tuple[int, int], cell: int
    ) -> Frame:
        """Of an image of whole cells, as many cells of padding before it as behind, or one less."""
        top, left = (
            (whole - part) // cell // 2 * cell
            for whole, part in zip(input_size, (height, width), strict=True)
        )
        return cls(top, left, height, width, input_size)

    def pad(self, images: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """Images (B, height, width, 3) uint8 in the input, (B, H, W, 3), on a colour (3,)."""
        padded = np.empty((len(images), *self.input_size, 3), np.uint8)
        padded[:] = colour
        rows = slice(self.top, self.top + self.height)
        padded[:, rows, self.left : self.left + self.width] = images
        return padded

    def crop(self, features: torch.Tensor) -> torch.Tensor:
        """The image's cells of features (B, C, h, w) of the whole input."""
        down, across = (
            cells / pixels
            for cells, pixels in zip(features.shape[2:], self.input_size, strict=True)
        )
        rows = slice(round(self.top * down), round((self.top + self.height) * down))
        columns = slice(round(self.left * across), round((self.left + self.width) * across))
        return features[:, :, rows, columns]


def takes_any_shape(classifier: Classifier) -> bool:
    """Whether a network takes an image that is wider than high, and reads its cells as they lie.

    It is tried: of networks that look convolutional some are built for one shape.
    """
    head = classifier.head
    if isinstance(head, TailHead) or head.grid.layout is not Layout.channels_first:
        return False
    cell = classifier.cell
    tried = replace(classifier, class_size=None, middle=()).at(2 * cell, 3 * cell)
    try:
        return tuple(tried.try_out().feature_map.shape[2:]) == (2, 3)
    except DOES_NOT_RUN:
        return False


def keeping_aspect(classifier: Classifier, name: str) -> Classifier:
    """The classifier, for images that keep their shape.

    Args:
        name: of the model, for the error.

    Raises:
        RequestError: its input is not square, or it is to be padded and its cells are not whole.
    """
    size, grid = classifier.preprocessing, classifier.head.grid
    if size.height != size.width:
        raise RequestError(
            f"model.keep_aspect: the input of {name} is {size.height} x {size.width}, and a longer "
            "side is one number; set model.input_size to one"
        )
    if takes_any_shape(classifier):
        return replace(classifier, aspect="kept")
    if size.height != grid.height * classifier.cell:
        raise RequestError(
            f"model.keep_aspect: {name} takes one shape and has {grid.height} cells in "
            f"{size.height} pixels, so that padding would end within a cell; set model.input_size "
            f"to a multiple of its stride, such as {grid.height * classifier.cell}"
        )
    return replace(classifier, aspect="padded")
