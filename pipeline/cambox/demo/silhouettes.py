"""Random closed outlines: what cuts a texture (an object) or a plain colour (a distractor)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Vertex coordinates are handed to OpenCV as fixed-point numbers with this many fractional bits.
_FRACTION_BITS = 4
_CURVE_POINTS = 72


def random_silhouette(generator: np.random.Generator, area: float) -> NDArray[np.float64]:
    """An ellipse, rounded rectangle, polygon or blob, turned by a random angle.

    Args:
        generator: The source of chance.
        area: The area inside the outline, in square pixels.

    Returns:
        (N, 2) float64 vertices x, y in pixels around the origin.
    """
    angles = np.linspace(0.0, 2.0 * np.pi, _CURVE_POINTS, endpoint=False)
    kind = generator.integers(4)
    if kind == 0:
        vertices = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif kind == 1:
        # A superellipse: the larger the exponent, the sharper the corners.
        exponent = 2.0 / generator.uniform(4.0, 9.0)
        curve = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        vertices = np.sign(curve) * np.abs(curve) ** exponent
    elif kind == 2:
        corners = int(generator.integers(5, 9))
        turns = (np.arange(corners) + generator.uniform(-0.25, 0.25, corners)) / corners
        radii = generator.uniform(0.85, 1.15, corners)
        vertices = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=1)
        vertices *= radii[:, None]
    else:
        radii = np.ones_like(angles)
        for frequency, amplitude in ((2, 0.14), (3, 0.12), (5, 0.05)):
            phase = generator.uniform(0.0, 2.0 * np.pi)
            radii += generator.uniform(0.3, 1.0) * amplitude * np.cos(frequency * angles + phase)
        vertices = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]

    vertices[:, 0] *= generator.uniform(1.0, 1.5)
    turn = generator.uniform(0.0, 2.0 * np.pi)
    cosine, sine = np.cos(turn), np.sin(turn)
    vertices = vertices @ np.array([[cosine, sine], [-sine, cosine]])
    x, y = vertices.T
    own_area = 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    return np.asarray(vertices * np.sqrt(area / own_area))


def fill_silhouette(vertices: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    """How much of each pixel lies inside an outline.

    Args:
        vertices: (N, 2) x, y in pixels; may lie outside the picture.
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.

    Returns:
        (height, width) uint8, 0 (outside) to 255 (inside), antialiased.
    """
    coverage = np.zeros((height, width), dtype=np.uint8)
    # OpenCV counts from the middle of the first pixel, pictures from its corner.
    fixed_point = np.rint((vertices - 0.5) * (1 << _FRACTION_BITS)).astype(np.int32)
    cv2.fillPoly(coverage, [fixed_point], 255, cv2.LINE_AA, _FRACTION_BITS)
    return coverage
