"""An image at several sizes: what each cell, and each window of cells, says of each class.

The head of the network is asked of each cell alone, so a cell's logits are what the network would
say of an image that looks like this cell all over. The mean of them in a window is, for a linear
head, what it would say of the window's average: a probability for each crop, without a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cambox.cams.refine import affinity, propagate
from cambox.cams.sums import Members, integral, mean_in, window_means

REFINE_STEPS = 2
# Of the middle layers the last ones, and of each so many channels.
COMPARED_LAYERS, COMPARED_CHANNELS = 3, 128
# The longer side of the grid on which the whole image is refined: all pairs of cells are compared.
MOST_CELLS = 28
# Height and width in cells; 7 x 7 of 32 pixels are the 224 that most networks were trained at.
WINDOW_SHAPES = ((7, 7), (5, 7), (7, 5), (4, 7), (7, 4), (5, 5))

# Values that are computed on at once: 800 KB, so that they stay in the processor's cache.
BLOCK = 200_000


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
    def summed(self) -> NDArray[np.float32]:
        """(h + 1, w + 1, K), see ``integral``."""
        return integral(self.logits.numpy())

    def mean_in(self, corners: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The mean logits (n, K) in boxes (n, 4), and their ``log_sum_exp`` where it counts."""
        logits = torch.from_numpy(mean_in(self.summed, corners))
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
        return _spread(maps[None], layers, size)[0]

    def window(self, score_map: torch.Tensor, cells: NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
        """What is in a window.

        Args:
            score_map: (h, w).
            cells: (4,) top, left, bottom, right, half-open.

        Returns:
            the part (1, 1, height, width) of the map, and of each middle layer what is compared
            there, (1, C, 2 x height, 2 x width).
        """
        top, left, bottom, right = cells.tolist()
        finer = (slice(None), slice(None), slice(2 * top, 2 * bottom), slice(2 * left, 2 * right))
        part = score_map[None, None, top:bottom, left:right]
        return part, *(layer[finer] for layer in self._compared)


def refined_windows(parts: Sequence[tuple[torch.Tensor, ...]]) -> torch.Tensor:
    """The maps of some windows, each spread along what looks alike in it.

    Args:
        parts: n windows of one shape, see ``Level.window``.

    Returns:
        (n, 2 x height, 2 x width).
    """
    maps, *layers = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
    size = 2 * maps.shape[2], 2 * maps.shape[3]
    return _spread(maps, layers, size)[:, 0]


def windows(size: tuple[int, int]) -> NDArray[np.int64]:
    """The cells (n, 4) of all windows of ``WINDOW_SHAPES``: top, left, bottom, right, half-open.

    Args:
        size: of the grid; a shape that is larger is cut to it.
    """
    height, width = size
    cells = []
    for down, across in sorted({(min(a, height), min(b, width)) for a, b in WINDOW_SHAPES}):
        top, left = np.mgrid[0 : height - down + 1, 0 : width - across + 1].reshape(2, -1)
        cells.append(np.stack([top, left, top + down, left + across], axis=1))
    return np.concatenate(cells)


def window_chances(
    level: Level, members: Members | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """How likely each window shows each class, by the mean logits of its cells.

    Args:
        members: of G groups; None: classes are their own groups.

    Returns:
        (n, 4) cells of each window, see ``windows``; and (n, G), 0 to 1.
    """
    cells = windows(level.size)
    chances = []
    together = max(1, BLOCK // level.logits.shape[2])
    for start in range(0, len(cells), together):
        means = torch.from_numpy(window_means(level.summed, cells[start : start + together]))
        largest = means.amax(dim=1, keepdim=True)
        odds = means.sub_(largest).exp_()
        of_groups = odds if members is None else torch.from_numpy(members.sums(odds.numpy()))
        if level.independent:
            chances.append(of_groups.log().add_(largest).sigmoid_().numpy())
        else:
            chances.append(of_groups.div(odds.sum(dim=1, keepdim=True)).numpy())
    return cells, np.concatenate(chances)


def log_sum_exp(logits: torch.Tensor) -> torch.Tensor:
    """Over the last dimension, as ``torch.logsumexp``, in half of its time over a thousand."""
    flat = logits.flatten(0, -2)
    sums = []
    for block in torch.split(flat, max(1, BLOCK // flat.shape[1])):
        largest = block.amax(dim=1, keepdim=True)
        sums.append((block - largest).exp_().sum(dim=1).log_() + largest[:, 0])
    return torch.cat(sums).view(logits.shape[:-1])


def log_probability(logit: torch.Tensor, total: torch.Tensor | None) -> torch.Tensor:
    """Of a group's logit, under a softmax over classes of this ``log_sum_exp``, or a sigmoid."""
    return F.logsigmoid(logit) if total is None else logit - total


def _spread(
    maps: torch.Tensor, layers: Sequence[torch.Tensor], size: tuple[int, int]
) -> torch.Tensor:
    """Maps (B, n, h, w) on this grid, spread along what is alike in layers (B, C, H, W)."""
    resized = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return propagate(resized, affinity(layers, size), REFINE_STEPS)


def _thinned(layer: torch.Tensor) -> torch.Tensor:
    return layer[:, :: -(-layer.shape[1] // COMPARED_CHANNELS)]


def _resized(layer: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """On another grid; one that is much coarser takes the mean of the cells, none is left out."""
    if layer.shape[2:] == size:
        return layer
    if layer.shape[2] > 2 * size[0] + 1:
        return F.adaptive_avg_pool2d(layer, size)
    return F.interpolate(layer, size=size, mode="bilinear", align_corners=False)
