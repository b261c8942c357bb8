"""A scene at several sizes: the score of each class in each cell, and what groups of them say.

An image keeps its shape, so this takes convolutional networks whose head is one linear layer. Each
cell's logits are what the network would say of an image that looks like this cell all over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cambox.cams.refine import affinity, propagate
from cambox.models.classifier import Classifier
from cambox.models.heads import AffineHead, Layout

SIDES = (224, 448, 896, 1280)
# Of an input in pixels; each is a whole number of the last feature map's cells.
STRIDE = 32
REFINE_STEPS = 2
COMPARED_CHANNELS = 128
# Height and width in cells; 7 x 7 is an input of 224, which the networks were trained at.
WINDOW_SHAPES = ((7, 7), (5, 7), (7, 5), (4, 7), (7, 4), (5, 5))


@dataclass(frozen=True)
class Level:
    """One forward pass of an image.

    Attributes:
        side: of the input, the longer one, in pixels.
        logits: (K, h, w) float32 of each cell, the bias included.
        middle: the features (1, C, h', w') of each middle layer.
    """

    side: int
    logits: torch.Tensor
    middle: tuple[torch.Tensor, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in cells."""
        return self.logits.shape[1], self.logits.shape[2]

    @cached_property
    def affinity(self) -> torch.Tensor:
        """(1, N, N) of the cells of a grid of twice the height and width."""
        return _affinity(self.middle, self.size)

    @cached_property
    def windows(self) -> tuple[NDArray[np.int64], torch.Tensor]:
        """See ``windows``; they are the same for all classes of the image."""
        return windows(self.logits)

    def refined_window(
        self, score_map: torch.Tensor, cells: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Refine the part of a map that a window holds, by what its own cells look like.

        Args:
            score_map: (h, w).
            cells: (4,) top, left, bottom, right.

        Returns:
            (2 x height, 2 x width) of the window.
        """
        top, left, bottom, right = cells.tolist()
        height, width = self.size
        inside = []
        for layer in self.middle:
            down, across = layer.shape[2] / height, layer.shape[3] / width
            rows = slice(round(top * down), round(bottom * down))
            inside.append(layer[:, :, rows, round(left * across) : round(right * across)])
        part = score_map[None, top:bottom, left:right]
        spread = refined(part, _affinity(inside, (bottom - top, right - left)))
        return np.asarray(spread[0])


def pyramid(
    classifier: Classifier, image: NDArray[np.uint8], sides: Sequence[int] = SIDES
) -> list[Level]:
    """Run the network on an image at several sizes, its shape kept to the nearest ``STRIDE``.

    Args:
        classifier: with middle layers.
        image: (height, width, 3) uint8 RGB.
        sides: of the inputs, the longer one of each, in pixels.

    Raises:
        ValueError: the network is not convolutional with one linear layer as its head.
    """
    head = classifier.head
    if not isinstance(head, AffineHead) or head.rectified:
        raise ValueError(f"expected a head of one linear layer, got one of kind {head.kind}")
    if head.grid.layout is not Layout.channels_first:
        raise ValueError(f"expected a convolutional network, got features as {head.grid.layout}")
    levels = []
    for side in sides:
        scale = side / max(image.shape[:2])
        height, width = (
            max(STRIDE, round(pixels * scale / STRIDE) * STRIDE) for pixels in image.shape[:2]
        )
        way = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
        resized = cv2.resize(image, (width, height), interpolation=way)
        sized = replace(classifier.preprocessing, height=height, width=width)
        scores = replace(classifier, preprocessing=sized).scores(resized[None])
        logits = torch.tensordot(head.weight, scores.feature_map[0], dims=1)
        levels.append(Level(side, logits + head.bias[:, None, None], scores.middle))
    return levels


def group(logits: torch.Tensor, members: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A group of the network's classes as one class.

    Args:
        logits: (K, ...).
        members: of the group, class indices.

    Returns:
        (...) logit of the group, the log of the sum of its members' exponentials; and the log of
        its probability, which is the sum of theirs.
    """
    logit = torch.logsumexp(logits[list(members)], dim=0)
    return logit, logit - torch.logsumexp(logits, dim=0)


def refined(score_maps: torch.Tensor, alike: torch.Tensor) -> NDArray[np.float32]:
    """Maps (m, h, w) on a grid of twice the size, spread along its affinity: (m, 2h, 2w)."""
    return np.asarray(propagate(_doubled(score_maps), alike, REFINE_STEPS)[0].numpy())


def doubled(score_map: torch.Tensor) -> NDArray[np.float32]:
    """A map (h, w) on the same grid as refined ones: (2h, 2w)."""
    return np.asarray(_doubled(score_map[None])[0, 0].numpy())


def _doubled(score_maps: torch.Tensor) -> torch.Tensor:
    height, width = score_maps.shape[1:]
    return F.interpolate(
        score_maps[None], size=(2 * height, 2 * width), mode="bilinear", align_corners=False
    )


def _affinity(middle: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    return affinity(middle, (2 * size[0], 2 * size[1]), channels=COMPARED_CHANNELS)


def windows(logits: torch.Tensor) -> tuple[NDArray[np.int64], torch.Tensor]:
    """All windows of ``WINDOW_SHAPES`` with their mean logits, by an integral image.

    As the head is linear, a window's mean is what the head says of the window's own average: a
    probability for each crop, without another pass.

    Args:
        logits: (K, h, w); a shape that is larger than the grid is cut to it.

    Returns:
        (n, 4) cells of each window, top, left, bottom, right, half-open; and (K, n).
    """
    _, height, width = logits.shape
    summed = F.pad(logits.double().cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0))
    cells, means = [], []
    for down, across in sorted({(min(a, height), min(b, width)) for a, b in WINDOW_SHAPES}):
        sums = (
            summed[:, down:, across:]
            - summed[:, :-down, across:]
            - summed[:, down:, :-across]
            + summed[:, :-down, :-across]
        )
        means.append((sums / (down * across)).flatten(1).float())
        top, left = np.mgrid[0 : height - down + 1, 0 : width - across + 1].reshape(2, -1)
        cells.append(np.stack([top, left, top + down, left + across], axis=1))
    return np.concatenate(cells), torch.cat(means, dim=1)


def mean_in(score_maps: torch.Tensor, corners: NDArray[np.float64]) -> torch.Tensor:
    """The means of maps in boxes; of a cell counts the part that a box covers.

    Args:
        score_maps: (m, h, w).
        corners: (n, 4), shares of the image.

    Returns:
        (m, n) float32.
    """
    _, height, width = score_maps.shape
    down = _covered(corners[:, 1] * height, corners[:, 3] * height, height)
    across = _covered(corners[:, 0] * width, corners[:, 2] * width, width)
    covered = (down[:, :, None] * across[:, None, :]).reshape(-1, height * width)
    weights = covered / (covered.sum(axis=1, keepdims=True) + 1e-9)
    return score_maps.flatten(1) @ torch.from_numpy(weights).float().T


def _covered(
    low: NDArray[np.float64], high: NDArray[np.float64], cells: int
) -> NDArray[np.float64]:
    """(n, cells) how much of each cell of a line lies between low and high (n,), in cells."""
    start = np.arange(cells)
    inside = np.minimum(high[:, None], start + 1) - np.maximum(low[:, None], start)
    return np.asarray(np.clip(inside, 0, 1))
