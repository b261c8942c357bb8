"""The eight textures that are the classes of the demo, as functions of a plane.

Each function takes coordinates ``u, v`` (arrays of one shape, in periods of the texture; float32
for speed) and returns, in the same shape, the signed distance to the ink in periods: positive
where the ink is. The distance makes the edges smooth at any scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]
Texture = Callable[[Plane, Plane], Plane]

_STAR_SECTOR = math.pi / 5
_STAR_OUTER = 0.46
_STAR_INNER = 0.19


def _cell(coordinate: Plane) -> Plane:
    """The offset from the nearest integer, -0.5 to 0.5."""
    return np.asarray(coordinate - np.rint(coordinate))


def _triangle(coordinate: Plane) -> Plane:
    """A triangle wave of period 1, from -0.5 to 0.5."""
    return 2.0 * np.abs(_cell(coordinate)) - np.float32(0.5)


def _striped(u: Plane, v: Plane) -> Plane:
    return np.float32(0.25) - np.abs(_cell(u))


def _checkered(u: Plane, v: Plane) -> Plane:
    # Two cells make a period, and the product of the waves changes its sign at each cell's edge.
    return 2.0 * _triangle(0.7 * u) * _triangle(0.7 * v)


def _dotted(u: Plane, v: Plane) -> Plane:
    return np.float32(0.31) - np.hypot(_cell(u), _cell(v))


def _ringed(u: Plane, v: Plane) -> Plane:
    distance = np.hypot(_cell(0.8 * u), _cell(0.8 * v))
    return np.float32(0.1) - np.abs(distance - np.float32(0.33))


def _zigzag(u: Plane, v: Plane) -> Plane:
    return np.float32(0.25) - np.abs(_cell(u + 0.9 * _triangle(0.55 * v)))


def _brick(u: Plane, v: Plane) -> Plane:
    row = np.rint(v)
    to_bed = np.float32(0.5) - np.abs(v - row)
    # Every second row is shifted by half a brick; a brick is two rows long.
    along = _cell(0.5 * u + 0.5 * (row % 2))
    to_head = 2.0 * (np.float32(0.5) - np.abs(along))
    return np.asarray(np.minimum(to_bed, to_head) - np.float32(0.12))


def _crosshatched(u: Plane, v: Plane) -> Plane:
    return np.float32(0.12) - np.minimum(np.abs(_cell(u)), np.abs(_cell(v)))


def _starry(u: Plane, v: Plane) -> Plane:
    x, y = _cell(0.8 * u), _cell(0.8 * v)
    # Fold the plane onto half a point of a five-pointed star, whose edge is one straight line
    # from the outer vertex on the axis to the inner vertex at the end of the sector.
    angle = np.arctan2(y, x) / (2.0 * _STAR_SECTOR)
    folded = np.abs(_cell(angle)) * (2.0 * _STAR_SECTOR)
    radius = np.hypot(x, y)
    inner_x = _STAR_INNER * math.cos(_STAR_SECTOR)
    inner_y = _STAR_INNER * math.sin(_STAR_SECTOR)
    edge = math.hypot(_STAR_OUTER - inner_x, inner_y)
    normal_x, normal_y = inner_y / edge, (_STAR_OUTER - inner_x) / edge
    along_normal = np.cos(folded) * normal_x + np.sin(folded) * normal_y
    return np.asarray(_STAR_OUTER * normal_x - radius * along_normal)


TEXTURES: dict[str, Texture] = {
    "striped": _striped,
    "checkered": _checkered,
    "dotted": _dotted,
    "ringed": _ringed,
    "zigzag": _zigzag,
    "brick": _brick,
    "crosshatched": _crosshatched,
    "starry": _starry,
}


def texture_ink(name: str, u: Plane, v: Plane, period: float) -> Plane:
    """How much of each pixel the ink of a texture covers.

    Args:
        name: a key of ``TEXTURES``.
        u, v: (H, W) float32, coordinates along the axes of the texture, in periods.
        period: in pixels, which makes the edges one pixel wide.

    Returns:
        (H, W) float32, 0 (paper) to 1 (ink).
    """
    distance = TEXTURES[name](u, v)
    return np.asarray(np.clip(np.float32(0.5) + distance * np.float32(period), 0.0, 1.0))
