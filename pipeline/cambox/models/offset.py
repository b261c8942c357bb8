"""Where the cells of a feature map look: further right and down than they lie, or left and up.

A convolution of stride 2 that is padded by one on both sides, as a ResNet's, keeps of the two
positions of each pair the left one; padded as TensorFlow does it ("same"), the right one. After
five of them the middle of what a cell sees lies up to half a cell beside the middle of the cell,
and training moves it back only in part (Alsallakh et al., Mind the Pad, ICLR 2021, on what uneven
padding does to feature maps). Read as if each cell saw its own square, boxes lie off by as much.

It takes no gradients to measure it. A network that was trained on mirrored images as well says the
same of a mirror image, in mirrored places; where cells look to one side, the two maps, one of them
mirrored back, lie twice that far apart.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
import torch

from cambox.models.classifier import Classifier

LOG = logging.getLogger(__name__)

PICTURES, PICTURES_AT_ONCE = 16, 4
DISCS = 400
# Radii of discs, as shares of the longer side.
SMALLEST, LARGEST = 0.01, 0.4
# What two maps of other networks have in common by chance is less.
LEAST_CORRELATION = 0.3
# More cannot come from padding: in cells.
MOST = 0.5
# Finer than boxes are found, and coarser than the rounding of processors.
STEP = 1 / 32
# Columns that a parabola through three lags of two smoothed maps wants.
LEAST_COLUMNS = 6


def with_offset(classifier: Classifier, offset: float | Literal["auto"]) -> Classifier:
    """The classifier, whose cells look so far from where they lie; ``auto``: as it is measured."""
    if offset != "auto":
        return replace(classifier, offset=offset)
    measured = measured_offset(classifier)
    LOG.info("cells look %+.2f of a cell to the right of, and below, where they lie", measured)
    return replace(classifier, offset=measured)


def measured_offset(classifier: Classifier) -> float:
    """How far to the right of its middle a cell looks, in cells, -0.5 to 0.5.

    Columns alone can tell, as no network is trained upside down; kernels and padding are the same
    in rows.

    Returns:
        A multiple of ``STEP``; 0 where the maps of an image and its mirror image have too little in
        common to tell, or are of too few columns.
    """
    # In full, so that another device's rounding hardly ever finds another step.
    classifier = replace(classifier, precision="float32")
    size = classifier.preprocessing
    images = dead_leaves(PICTURES, size.height, size.width)
    maps, mirrored = [], []
    for start in range(0, PICTURES, PICTURES_AT_ONCE):
        some = images[start : start + PICTURES_AT_ONCE]
        maps.append(classifier.scores(some).feature_map)
        mirrored.append(classifier.scores(np.ascontiguousarray(some[:, :, ::-1])).feature_map)
    if maps[0].shape[3] < LEAST_COLUMNS:
        return 0.0
    # What cells see too far right lies too far left in the maps, and too far right in the others.
    apart = columns_apart(torch.cat(maps), torch.cat(mirrored).flip(3))
    if apart is None:
        LOG.warning("cam.offset: the network says another thing of a mirror image; 0 is taken")
        return 0.0
    return float(np.clip(round(apart / 2 / STEP) * STEP, -MOST, MOST))


def columns_apart(first: torch.Tensor, second: torch.Tensor) -> float | None:
    """How many columns further right the second of two like maps lies.

    Where their correlation over all channels is highest: a parabola through the best whole lag and
    its neighbours. Both are smoothed alike, so that a lag between two columns is not preferred for
    its interpolation.

    Args:
        first, second: (B, C, H, W), W of ``LEAST_COLUMNS`` or more.

    Returns:
        -2 to 2; None where they have little in common at any lag.
    """
    first, second = _smoothed(first), _smoothed(second)
    width = first.shape[3]
    lags = range(-2, 3)
    correlations = []
    for lag in lags:
        left = first[..., max(0, -lag) : width - max(0, lag)]
        right = second[..., max(0, lag) : width - max(0, -lag)]
        norms = left.norm() * right.norm()
        correlations.append(float((left * right).sum() / norms) if norms > 0 else 0.0)
    best = int(np.argmax(correlations[1:-1])) + 1
    before, at, after = correlations[best - 1 : best + 2]
    bend = before - 2 * at + after
    if at < LEAST_CORRELATION or bend >= 0:
        return None
    return lags[best] + float(np.clip((before - after) / (2 * bend), -1, 1))


def dead_leaves(count: int, height: int, width: int) -> np.ndarray:
    """Images of discs that cover each other, (count, height, width, 3) uint8, always the same.

    Their statistics are those of photographs (Lee, Mumford and Huang, Occlusion models for natural
    images, 2001), and networks for photographs answer to them as to those.
    """
    generator = np.random.default_rng(0)
    images = np.zeros((count, height, width, 3), np.uint8)
    longer = max(height, width)
    for image in images:
        # So many of each radius r as go with r ** -3: what is far away is small.
        shares = generator.uniform(size=DISCS)
        inverse = SMALLEST**-2 + shares * (LARGEST**-2 - SMALLEST**-2)
        radii = np.rint(longer * inverse**-0.5).astype(int)
        middles = generator.uniform(size=(DISCS, 2)) * (width, height)
        colours = generator.integers(0, 256, (DISCS, 3)).tolist()
        for middle, radius, colour in zip(
            middles.astype(int).tolist(), radii, colours, strict=True
        ):
            cv2.circle(image, middle, int(radius), colour, cv2.FILLED)
    return images


def _smoothed(maps: torch.Tensor) -> torch.Tensor:
    """Each channel less its mean, and each column with a quarter of both neighbours'."""
    centred = maps - maps.mean((2, 3), keepdim=True)
    return (centred[..., :-2] + 2 * centred[..., 1:-1] + centred[..., 2:]) / 4
