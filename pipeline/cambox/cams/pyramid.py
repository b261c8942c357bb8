"""An image at several sizes: what each cell, and each window of cells, says of each class.

The head of the network is asked of each cell alone, so a cell's logits are what the network would
say of an image that looks like this cell all over. The mean of them in a window is, for a linear
head, what it would say of the window's average: a probability for each crop, without a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cambox.cams.refine import affinity, propagate

REFINE_STEPS = 2
# Of the middle layers the last ones, and of each so many channels.
COMPARED_LAYERS, COMPARED_CHANNELS = 3, 128
# The longer side of the grid on which the whole image is refined: all pairs of cells are compared.
MOST_CELLS = 28
# Height and width in cells; 7 x 7 of 32 pixels are the 224 that most networks were trained at.
WINDOW_SHAPES = ((7, 7), (5, 7), (7, 5), (4, 7), (7, 4), (5, 5))

# Of windows or cells, the logits of all classes: 100 times 1000 are 400 KB.
BLOCK = 100


@dataclass(frozen=True)
class Level:
    """One pass over an image that kept its shape.

    Attributes:
        side: of the input, the longer one, in pixels.
        logits: (h, w, K) float32 of each cell, with the bias.
        middle: of each middle layer its features (1, C, h', w'), finer than the cells.
        mirrored: the network saw the mirror image; what is here is mirrored back.
        independent: classes do not exclude each other: a sigmoid each, no softmax over all.
    """

    side: int
    logits: torch.Tensor
    middle: tuple[torch.Tensor, ...]
    mirrored: bool = False
    independent: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in cells."""
        return self.logits.shape[0], self.logits.shape[1]

    @property
    def finer(self) -> tuple[int, int]:
        """Height and width of a grid of twice the cells, on which plain maps are cut."""
        return 2 * self.logits.shape[0], 2 * self.logits.shape[1]

    @cached_property
    def _compared(self) -> tuple[torch.Tensor, ...]:
        return tuple(_resized(_thinned(layer), self.finer) for layer in self.middle)

    @cached_property
    def total(self) -> torch.Tensor:
        """(h, w) the log of the sum of all classes' exponentials in each cell."""
        return log_sum_exp(self.logits)

    @cached_property
    def _groups(self) -> dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]]:
        return {}

    def group(self, members: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A group of the network's classes as one class; remembered, as it is asked for often.

        Returns:
            (h, w) its logit, the log of the sum of its members' exponentials, in each cell; and
            (h, w) the log of its probability there.
        """
        key = tuple(members)
        if key not in self._groups:
            logit = log_sum_exp(self.logits[..., list(members)])
            total = None if self.independent else self.total
            self._groups[key] = logit, log_probability(logit, total)
        return self._groups[key]

    @cached_property
    def summed(self) -> torch.Tensor:
        """(h + 1, w + 1, K), see ``integral``."""
        return integral(self.logits)

    def mean_in(self, corners: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The mean logits (n, K) in boxes (n, 4), and their ``log_sum_exp`` where it counts."""
        logits = mean_in(self.summed, corners)
        return logits, None if self.independent else log_sum_exp(logits)

    def refined(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (m, h, w) spread along what looks alike in the image; ``MOST_CELLS`` high or wide.

        Returns:
            (m, h'', w'').
        """
        height, width = self.finer
        scale = min(1.0, MOST_CELLS / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        layers = [_resized(_thinned(layer), size) for layer in self.middle]
        return _spread(maps, layers, size)

    def refined_window(self, score_map: torch.Tensor, cells: NDArray[np.int64]) -> torch.Tensor:
        """The part of a map (h, w) in a window, spread along what looks alike in it.

        Args:
            cells: (4,) top, left, bottom, right, half-open.

        Returns:
            (2 x height, 2 x width) of the window.
        """
        top, left, bottom, right = cells.tolist()
        layers = [
            layer[:, :, 2 * top : 2 * bottom, 2 * left : 2 * right] for layer in self._compared
        ]
        size = 2 * (bottom - top), 2 * (right - left)
        return _spread(score_map[None, top:bottom, left:right], layers, size)[0]


def windows(summed: torch.Tensor) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    """All windows of ``WINDOW_SHAPES`` with their means, about ``BLOCK`` at a time.

    There are thousands of them with a thousand classes each: a block fits into the processor's
    cache, all do not.

    Args:
        summed: (h + 1, w + 1, K), see ``integral``; a shape that is larger than the grid is cut to
            it.

    Yields:
        (n, 4) cells of each window, top, left, bottom, right, half-open; and (n, K).
    """
    height, width = summed.shape[0] - 1, summed.shape[1] - 1
    for down, across in sorted({(min(a, height), min(b, width)) for a, b in WINDOW_SHAPES}):
        tops, lefts = height - down + 1, width - across + 1
        rows = max(1, BLOCK // lefts)
        for first in range(0, tops, rows):
            last = min(first + rows, tops)
            above, below = summed[first:last], summed[first + down : last + down]
            sums = below[:, across:] - above[:, across:]
            sums -= below[:, :lefts]
            sums += above[:, :lefts]
            top, left = np.mgrid[first:last, 0:lefts].reshape(2, -1)
            cells = np.stack([top, left, top + down, left + across], axis=1)
            yield cells, sums.div_(down * across).flatten(0, 1)


def window_chances(
    level: Level, membership: torch.Tensor | None
) -> tuple[NDArray[np.int64], torch.Tensor]:
    """How likely each window shows each class, by the mean logits of its cells.

    Args:
        membership: (K, G) 1 where a class is of a group; None: classes are their own groups.

    Returns:
        (n, 4) cells of each window, see ``windows``; and (n, G), 0 to 1.
    """
    cells, chances = [], []
    for of_block, means in windows(level.summed):
        largest = means.amax(dim=1, keepdim=True)
        odds = means.sub_(largest).exp_()
        of_groups = odds if membership is None else odds @ membership
        if level.independent:
            of_groups = of_groups.log_().add_(largest).sigmoid_()
        else:
            of_groups = of_groups.div_(odds.sum(dim=1, keepdim=True))
        cells.append(of_block)
        chances.append(of_groups)
    return np.concatenate(cells), torch.cat(chances)


def integral(values: torch.Tensor) -> torch.Tensor:
    """The sums (h + 1, w + 1, k) of values (h, w, k) above and left of each corner of a cell."""
    height, width, depth = values.shape
    summed = values.new_zeros(height + 1, width + 1, depth)
    summed[1:, 1:] = values.cumsum(dim=0).cumsum(dim=1)
    return summed


def mean_in(summed: torch.Tensor, corners: NDArray[np.float64]) -> torch.Tensor:
    """The means of values of cells in boxes; of a cell counts the part that a box covers.

    Args:
        summed: (h + 1, w + 1, k), see ``integral``. Between the corners of a cell it is bilinear,
            so that it is exact for boxes that end within cells.
        corners: (n, 4), shares of the image.

    Returns:
        (n, k) float32.
    """
    height, width = summed.shape[0] - 1, summed.shape[1] - 1
    rows, down = _ends(corners[:, 1] * height, corners[:, 3] * height, height)
    columns, across = _ends(corners[:, 0] * width, corners[:, 2] * width, width)
    places = rows[:, :, None] * (width + 1) + columns[:, None, :]
    weights = (down[:, :, None] * across[:, None, :]).astype(np.float32)
    return F.embedding_bag(
        torch.from_numpy(places.reshape(-1, 16)),
        summed.flatten(0, 1),
        per_sample_weights=torch.from_numpy(weights.reshape(-1, 16)),
        mode="sum",
    )


def _ends(
    low: NDArray[np.float64], high: NDArray[np.float64], cells: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of lines from low to high (n,): the cells' corners around both ends, and what each counts.

    Returns:
        (n, 4) corners, and (n, 4) weights by which their sums give the mean along the line.
    """
    first, last = (np.clip(np.floor(end), 0, cells - 1) for end in (low, high))
    corners = np.stack([first, first + 1, last, last + 1], axis=1)
    into_first, into_last = low - first, high - last
    weights = np.stack([into_first - 1, -into_first, 1 - into_last, into_last], axis=1)
    return corners.astype(np.int64), weights / np.maximum(high - low, 1e-6)[:, None]


def log_sum_exp(logits: torch.Tensor) -> torch.Tensor:
    """Over the last dimension, as ``torch.logsumexp``, in half of its time over a thousand."""
    flat = logits.flatten(0, -2)
    sums = flat.new_empty(len(flat))
    # A block fits into the processor's cache, and its exponentials are no fresh memory.
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        largest = block.amax(dim=1, keepdim=True)
        sums[start : start + BLOCK] = (block - largest).exp_().sum(dim=1).log_() + largest[:, 0]
    return sums.view(logits.shape[:-1])


def log_probability(logit: torch.Tensor, total: torch.Tensor | None) -> torch.Tensor:
    """Of a group's logit, under a softmax over classes of this ``log_sum_exp``, or a sigmoid."""
    return F.logsigmoid(logit) if total is None else logit - total


def _spread(
    maps: torch.Tensor, layers: Sequence[torch.Tensor], size: tuple[int, int]
) -> torch.Tensor:
    resized = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)
    return propagate(resized, affinity(layers, size), REFINE_STEPS)[0]


def _thinned(layer: torch.Tensor) -> torch.Tensor:
    return layer[:, :: -(-layer.shape[1] // COMPARED_CHANNELS)]


def _resized(layer: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """On another grid; one that is much coarser takes the mean of the cells, none is left out."""
    if layer.shape[2:] == size:
        return layer
    if layer.shape[2] > 2 * size[0] + 1:
        return F.adaptive_avg_pool2d(layer, size)
    return F.interpolate(layer, size=size, mode="bilinear", align_corners=False)
